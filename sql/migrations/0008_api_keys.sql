-- Keys to the operator's listener, and the order of its lists.

DO $$
BEGIN
    CREATE TYPE api_role AS ENUM ('reader', 'auditor', 'operator', 'admin');
EXCEPTION WHEN duplicate_object THEN
    NULL;
END $$;
COMMENT ON TYPE api_role IS 'from the least rights to the most: each role may do what those before it may';

-- A key has 256 random bits, so a plain SHA-256 of it is as hard to turn back as the key is to guess;
-- the key itself is shown once and kept nowhere. A row stays when its key ends.
CREATE TABLE IF NOT EXISTS api_keys (
    key_sha256 bytea PRIMARY KEY CHECK (octet_length(key_sha256) = 32),
    name       varchar(100) NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
    role       api_role NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT '',
    expires_at timestamptz CHECK (expires_at > created_at),
    revoked_at timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_api_keys_name ON api_keys (name) WHERE revoked_at IS NULL;

CREATE INDEX IF NOT EXISTS idx_payments_created ON payments (created_at DESC, id DESC);
