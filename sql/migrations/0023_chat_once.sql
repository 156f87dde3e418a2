-- A message is in its session once, whichever process wrote it; and the last days of all chats are
-- found without reading them all.
CREATE UNIQUE INDEX IF NOT EXISTS idx_chat_messages_once ON chat_messages (session_id, message_id);
CREATE INDEX IF NOT EXISTS idx_chat_messages_created ON chat_messages (created_at DESC);
