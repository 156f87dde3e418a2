-- What agents said, where the operator asked for it, and what users thought of the answers.
-- All of it is private, none of it is money: it goes when the agent is erased.

CREATE TABLE IF NOT EXISTS chat_sessions (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    wallet_address text NOT NULL CHECK (wallet_address <> '' AND length(wallet_address) <= 128),
    title          text DEFAULT 'New Chat',
    agent_id       uuid REFERENCES agents (id) ON DELETE RESTRICT,
    session_key    text,
    message_count  integer NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    history_hash   bytea,
    created_at     timestamptz DEFAULT now(),
    updated_at     timestamptz DEFAULT now()
);
COMMENT ON COLUMN chat_sessions.session_key IS
    'of a captured conversation: the agent''s session, or the hash of how it began';
COMMENT ON COLUMN chat_sessions.history_hash IS
    'of the messages known so far, since every request of a conversation brings them all again';
CREATE INDEX IF NOT EXISTS idx_chat_sessions_wallet ON chat_sessions (wallet_address, updated_at DESC);
CREATE UNIQUE INDEX IF NOT EXISTS idx_chat_sessions_key ON chat_sessions (agent_id, session_key)
    WHERE session_key IS NOT NULL;
DROP TRIGGER IF EXISTS chat_sessions_touch ON chat_sessions;
CREATE TRIGGER chat_sessions_touch BEFORE UPDATE ON chat_sessions
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE TABLE IF NOT EXISTS chat_messages (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id    uuid NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
    message_id    text NOT NULL CHECK (message_id <> '' AND length(message_id) <= 256),
    content       text NOT NULL,
    is_user       boolean NOT NULL,
    escrow_id     text,
    tx_hash       text,
    image_preview text,
    payment_id    uuid REFERENCES payments (id) ON DELETE RESTRICT,
    truncated     boolean NOT NULL DEFAULT false,
    created_at    timestamptz DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_chat_messages_session ON chat_messages (session_id, created_at);
CREATE INDEX IF NOT EXISTS idx_chat_messages_message ON chat_messages (message_id);
CREATE INDEX IF NOT EXISTS idx_chat_messages_payment ON chat_messages (payment_id) WHERE payment_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS message_ratings (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    message_id   text NOT NULL,
    user_address text NOT NULL CHECK (user_address <> '' AND length(user_address) <= 128),
    agent_id     text,
    is_positive  boolean NOT NULL,
    created_at   timestamptz DEFAULT now(),
    UNIQUE (message_id, user_address)
);
CREATE INDEX IF NOT EXISTS idx_message_ratings_agent ON message_ratings (agent_id);
