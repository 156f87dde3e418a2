-- What proves that a row was written by an autopay, and not by somebody who merely has the database:
-- values sealed by AES-256-GCM under a key that is never in here. Only programs that hold the key
-- can make one or tell a true one from a false; what is refused here is what has not even the form.

-- version (1 byte, 0x01) | id of the key (4) | nonce (12) | ciphertext | tag (16)
CREATE OR REPLACE FUNCTION is_sealed(p_value bytea, p_plain_bytes integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(octet_length(p_value) = 33 + p_plain_bytes AND get_byte(p_value, 0) = 1, false)
$$;

ALTER TABLE agent_tokens ADD COLUMN IF NOT EXISTS sealed bytea;
COMMENT ON COLUMN agent_tokens.sealed IS
    'token_sha256, sealed for this agent and this session. A token without a true one is not '
    'accepted; rows that were here before the column were sealed when it was added.';
ALTER TABLE agents ADD COLUMN IF NOT EXISTS session_token_hash bytea;
COMMENT ON COLUMN agents.session_token_hash IS
    'SHA-256 of the agent''s newest token, sealed for this agent; NULL once it was removed';

CREATE OR REPLACE FUNCTION refuse_unsealed_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A row from before the column may still change (be revoked, be sealed), but none loses its seal.
    IF TG_OP = 'UPDATE' AND NEW.sealed IS NOT DISTINCT FROM OLD.sealed THEN
        RETURN NEW;
    END IF;
    IF NOT is_sealed(NEW.sealed, 32) THEN
        RAISE EXCEPTION 'a token is stored sealed, or not at all' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS agent_tokens_sealed ON agent_tokens;
CREATE TRIGGER agent_tokens_sealed BEFORE INSERT OR UPDATE ON agent_tokens
    FOR EACH ROW EXECUTE FUNCTION refuse_unsealed_token();

CREATE OR REPLACE FUNCTION refuse_unsealed_session_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.session_token_hash IS NOT NULL AND NOT is_sealed(NEW.session_token_hash, 32) THEN
        RAISE EXCEPTION 'a session token is stored encrypted, or not at all'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS agents_session_token_sealed ON agents;
CREATE TRIGGER agents_session_token_sealed BEFORE INSERT OR UPDATE ON agents
    FOR EACH ROW EXECUTE FUNCTION refuse_unsealed_session_token();

-- A key of each agent's own, for what is kept about it. To destroy it is to destroy all of that,
-- wherever copies of the rows may be.
CREATE TABLE IF NOT EXISTS agent_keys (
    agent_id     uuid PRIMARY KEY REFERENCES agents (id) ON DELETE RESTRICT,
    sealed_key   bytea CHECK (is_sealed(sealed_key, 32) OR sealed_key IS NULL),
    created_at   timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CHECK ((sealed_key IS NULL) = (destroyed_at IS NOT NULL))
);
COMMENT ON TABLE agent_keys IS
    'the key (32 bytes, sealed) of what is kept about an agent; a destroyed one is never made anew';

CREATE OR REPLACE FUNCTION guard_agent_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'the key of agent % is destroyed, not deleted: a new one would be made',
            OLD.agent_id USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.destroyed_at IS NOT NULL OR NEW.agent_id <> OLD.agent_id THEN
        RAISE EXCEPTION 'the key of agent % cannot be moved, or come back once destroyed', OLD.agent_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS agent_keys_guard ON agent_keys;
CREATE TRIGGER agent_keys_guard BEFORE UPDATE OR DELETE ON agent_keys
    FOR EACH ROW EXECUTE FUNCTION guard_agent_key();
