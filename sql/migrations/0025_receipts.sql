-- Receipts that prove themselves. Each becomes a link of its agent's chain, in the transaction that
-- writes it: its content as canonical JSON, and the hash of the link before. What is learnt of it
-- later is another link. The running proxy signs links behind that (receipt_signatures), so that
-- whoever can write to this database and has none of the proxies' keys can forge nothing.
--
-- Locks: the chain's row comes after the counters; of several, in the order of their agents.

CREATE TABLE IF NOT EXISTS receipt_chains (
    agent_id uuid PRIMARY KEY REFERENCES agents (id) ON DELETE RESTRICT,
    length   bigint NOT NULL DEFAULT 0 CHECK (length >= 0),
    head     bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(head) = 32),
    salt     bytea DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
) WITH (fillfactor = 50);
COMMENT ON COLUMN receipt_chains.head IS 'the hash of the newest link; zeros before the first';
COMMENT ON COLUMN receipt_chains.salt IS
    'of the commitments to sessions, traces and bodies; gone once the agent is erased';

CREATE TABLE IF NOT EXISTS receipt_links (
    agent_id    uuid NOT NULL REFERENCES receipt_chains (agent_id) ON DELETE RESTRICT,
    seq         bigint NOT NULL CHECK (seq > 0),
    kind        text NOT NULL CHECK (kind IN ('receipt', 'reversal', 'correction')),
    receipt_id  uuid NOT NULL REFERENCES x402_payment_logs (id) ON DELETE RESTRICT,
    canonical   text NOT NULL,
    sha256      bytea NOT NULL,
    previous    bytea NOT NULL CHECK (octet_length(previous) = 32),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, seq),
    UNIQUE (receipt_id, kind),
    CONSTRAINT receipt_links_sha256_check CHECK (sha256 = sha256(convert_to(canonical, 'UTF8')))
);
COMMENT ON TABLE receipt_links IS
    'reversal: the chain proved the payment dead; correction: another transaction than was booked';
COMMENT ON COLUMN receipt_links.canonical IS 'RFC 8785: sorted, no blanks; these very bytes are hashed';
CREATE INDEX IF NOT EXISTS idx_receipt_links_recorded ON receipt_links (recorded_at);

CREATE TABLE IF NOT EXISTS receipt_keys (
    key_id     bytea PRIMARY KEY CHECK (key_id = sha256(public_key)),
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE receipt_keys IS 'Ed25519 keys of the proxies, as they were first used with this database';

CREATE TABLE IF NOT EXISTS receipt_signatures (
    agent_id   uuid NOT NULL,
    seq        bigint NOT NULL,
    key_id     bytea NOT NULL REFERENCES receipt_keys (key_id) ON DELETE RESTRICT,
    signature  bytea NOT NULL CHECK (octet_length(signature) = 64),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, seq),
    FOREIGN KEY (agent_id, seq) REFERENCES receipt_links (agent_id, seq) ON DELETE RESTRICT
);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['receipt_links', 'receipt_keys', 'receipt_signatures'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %I', v_table || '_keep', v_table);
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE OR TRUNCATE ON %I
                        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', v_table || '_keep', v_table);
    END LOOP;
END $$;

-- A chain for every agent from its first day: one that is made later could be made twice, and would
-- be locked out of order. An erased agent's salt goes.
CREATE OR REPLACE FUNCTION keep_chain() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO receipt_chains (agent_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    END IF;
    IF NEW.erased_at IS NOT NULL THEN
        UPDATE receipt_chains c SET salt = NULL WHERE c.agent_id = NEW.id AND c.salt IS NOT NULL;
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_chain ON agents;
CREATE TRIGGER agents_chain AFTER INSERT OR UPDATE OF erased_at ON agents
    FOR EACH ROW EXECUTE FUNCTION keep_chain();

-- RFC 8785, of an object whose members are text, whole numbers below 2^53, true, false or null, and
-- whose names are ASCII. PostgreSQL escapes in texts just what the RFC wants to be escaped.
CREATE OR REPLACE FUNCTION canonical_json(p_flat jsonb) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT '{' || string_agg(to_json(m.key)::text || ':' || m.value::text, ','
                                     ORDER BY m.key COLLATE "C") || '}'
              FROM jsonb_each(p_flat) m);
END $$;

-- Says nothing to who does not know the salt; proves what it stands for to who is told the salt.
CREATE OR REPLACE FUNCTION commitment(p_salt bytea, p_kind text, p_value text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN encode(sha256(coalesce(p_salt, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
                         || convert_to(p_kind || ':' || p_value, 'UTF8')), 'hex');
END $$;

-- Money is written as text: a number in JSON is exact to 2^53 only.
CREATE OR REPLACE FUNCTION receipt_content(l x402_payment_logs, x payments, p_salt bytea) RETURNS jsonb
LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_build_object(
        'method', l.method, 'endpoint', split_part(l.endpoint, '?', 1), 'provider', x.provider,
        'decimals', x.decimals, 'pay_to', l.pay_to, 'payer', x.payer,
        'source_account', x.source_account, 'destination_account', x.destination_account,
        'transaction', l.tx_hash, 'claimed_transaction', l.settle_tx_hash,
        'client_signature', x.client_signature, 'message_sha256', encode(x.message_sha256, 'hex'),
        'payment_payload_sha256', l.payment_payload_hash, 'settle_response_sha256', l.settle_response_hash,
        'request_body_commitment', commitment(p_salt, 'body', encode(x.request_body_sha256, 'hex')),
        'session_commitment', commitment(p_salt, 'session', l.session_id),
        'trace_commitment', commitment(p_salt, 'trace', l.trace_id),
        'source', l.source, 'claimed', l.claimed, 'success', l.success, 'http_status', l.http_status,
        'policy_version', x.policy_version);
END $$;

-- Writes the next link of a chain that the caller has locked; returns the chain as it is then.
CREATE OR REPLACE FUNCTION add_link(
    p_chain receipt_chains, p_kind text, l x402_payment_logs, p_at timestamptz, p_content jsonb
) RETURNS receipt_chains
LANGUAGE plpgsql AS $$
DECLARE
    v_text text := canonical_json(p_content || jsonb_build_object(
        'v', 1, 'kind', p_kind, 'agent_id', l.agent_id, 'receipt_id', l.id,
        'seq', p_chain.length + 1, 'previous', encode(p_chain.head, 'hex'),
        'amount_atomic', l.amount, 'asset', l.asset, 'symbol', l.symbol, 'network', l.network,
        'price_micros', l.amount_micros::text,
        'recorded_at', to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
    v_hash bytea := sha256(convert_to(v_text, 'UTF8'));
BEGIN
    INSERT INTO receipt_links (agent_id, seq, kind, receipt_id, canonical, sha256, previous, recorded_at)
    VALUES (l.agent_id, p_chain.length + 1, p_kind, l.id, v_text, v_hash, p_chain.head, p_at);
    p_chain.length := p_chain.length + 1;
    p_chain.head := v_hash;
    RETURN p_chain;
END $$;

-- What the receipt's payment has become, if that is worth a link.
CREATE OR REPLACE FUNCTION aftermath(l x402_payment_logs, x payments) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN x.status = 'FAILED' THEN 'reversal'
                WHEN x.status = 'VERIFIED' AND x.payment_hash IS DISTINCT FROM l.tx_hash THEN 'correction' END;
END $$;

CREATE OR REPLACE FUNCTION link_receipt() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_chain   receipt_chains;
    v_payment payments;
BEGIN
    SELECT * INTO STRICT v_chain FROM receipt_chains c WHERE c.agent_id = NEW.agent_id FOR NO KEY UPDATE;
    SELECT * INTO STRICT v_payment FROM payments x WHERE x.id = NEW.id;
    v_chain := add_link(v_chain, 'receipt', NEW, NEW.settled_at, receipt_content(NEW, v_payment, v_chain.salt));
    UPDATE receipt_chains c SET length = v_chain.length, head = v_chain.head WHERE c.agent_id = NEW.agent_id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS x402_payment_logs_link ON x402_payment_logs;
CREATE TRIGGER x402_payment_logs_link AFTER INSERT ON x402_payment_logs
    FOR EACH ROW EXECUTE FUNCTION link_receipt();

CREATE OR REPLACE FUNCTION link_aftermath() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_chain   receipt_chains;
    v_receipt x402_payment_logs;
    v_kind    text;
BEGIN
    SELECT * INTO v_receipt FROM x402_payment_logs l WHERE l.id = NEW.id;
    v_kind := aftermath(v_receipt, NEW);
    IF v_receipt.id IS NULL OR v_kind IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT * INTO STRICT v_chain FROM receipt_chains c WHERE c.agent_id = NEW.agent_id FOR NO KEY UPDATE;
    v_chain := add_link(v_chain, v_kind, v_receipt, now(), jsonb_build_object('transaction', NEW.payment_hash));
    UPDATE receipt_chains c SET length = v_chain.length, head = v_chain.head WHERE c.agent_id = NEW.agent_id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS payments_link ON payments;
CREATE TRIGGER payments_link AFTER UPDATE OF status ON payments
    FOR EACH ROW WHEN (OLD.status = 'CONFIRMED' AND NEW.status IN ('VERIFIED', 'FAILED'))
    EXECUTE FUNCTION link_aftermath();

-- Links what has none: receipts of before there were chains, or loaded in bulk with the triggers off.
-- How many links it wrote.
CREATE OR REPLACE FUNCTION link_receipts() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_chain   receipt_chains;
    v_one     record;
    v_written bigint := 0;
BEGIN
    FOR v_one IN
        SELECT e.kind, e.at, l, x
          FROM x402_payment_logs l JOIN payments x ON x.id = l.id
          CROSS JOIN LATERAL (VALUES ('receipt', l.settled_at), (aftermath(l, x), x.updated_at)) e (kind, at)
         WHERE e.kind IS NOT NULL AND NOT EXISTS (
               SELECT 1 FROM receipt_links k WHERE k.receipt_id = l.id AND k.kind = e.kind)
         ORDER BY l.agent_id, e.at, e.kind <> 'receipt', l.id
    LOOP
        -- One write per chain: each leaves a dead version of the row, and all have to be passed by
        -- whoever finds the row in the same transaction.
        IF (v_one.l).agent_id IS DISTINCT FROM v_chain.agent_id THEN
            UPDATE receipt_chains c SET length = v_chain.length, head = v_chain.head
             WHERE c.agent_id = v_chain.agent_id;
            SELECT * INTO STRICT v_chain FROM receipt_chains c
             WHERE c.agent_id = (v_one.l).agent_id FOR NO KEY UPDATE;
        END IF;
        v_chain := add_link(v_chain, v_one.kind, v_one.l, v_one.at,
            CASE v_one.kind WHEN 'receipt' THEN receipt_content(v_one.l, v_one.x, v_chain.salt)
                            ELSE jsonb_build_object('transaction', (v_one.x).payment_hash) END);
        v_written := v_written + 1;
    END LOOP;
    UPDATE receipt_chains c SET length = v_chain.length, head = v_chain.head WHERE c.agent_id = v_chain.agent_id;
    RETURN v_written;
END $$;

INSERT INTO receipt_chains (agent_id) SELECT a.id FROM agents a ON CONFLICT DO NOTHING;
UPDATE receipt_chains c SET salt = NULL FROM agents a WHERE a.id = c.agent_id AND a.erased_at IS NOT NULL;
SELECT link_receipts();

-- All may read the chains, so that all may check them; not the salt, which would open commitments.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['receipt_chains', 'receipt_links', 'receipt_keys', 'receipt_signatures'] LOOP
        PERFORM open_table(v_table::regclass,
            ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
    END LOOP;
END $$;
GRANT SELECT ON receipt_links, receipt_keys, receipt_signatures
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT SELECT (agent_id, length, head) ON receipt_chains TO autopay_writer, autopay_reader, autopay_auditor;
GRANT SELECT ON receipt_chains TO autopay_admin;
GRANT INSERT (key_id, public_key) ON receipt_keys TO autopay_writer;
GRANT INSERT (agent_id, seq, key_id, signature) ON receipt_signatures TO autopay_writer;
