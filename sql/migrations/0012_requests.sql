-- The request that a payment was for, what became of it, and how often it was tried.

DO $$ BEGIN
    CREATE TYPE api_type AS ENUM ('MARKET_DATA', 'KNOWLEDGE_DATA');
    CREATE TYPE request_status AS ENUM ('PENDING', 'PAYMENT_REQUIRED', 'PAID', 'FAILED', 'ACCESSED');
    CREATE TYPE payment_currency AS ENUM ('CASH', 'USDC', 'USDT', 'USDG', 'PYUSD');
    CREATE TYPE retry_outcome AS ENUM ('SUCCESS', 'FAILURE');
    CREATE TYPE error_party AS ENUM ('ours', 'theirs', 'caller');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

-- What can go wrong, each kind once: whose fault, whether another try may help, whether it counts
-- against the provider, and what the program is told.
CREATE TABLE IF NOT EXISTS error_classifications (
    code               text PRIMARY KEY,
    class              text NOT NULL,
    party              error_party NOT NULL,
    retryable          boolean NOT NULL,
    counts_for_breaker boolean NOT NULL,
    description        text NOT NULL
);
INSERT INTO error_classifications VALUES
    ('connect_failed',      'network',  'theirs', true,  true,  'no connection to the provider; nothing was sent'),
    ('connect_timeout',     'network',  'theirs', true,  true,  'no connection to the provider in time; nothing was sent'),
    ('tls_failed',          'network',  'theirs', false, true,  'the provider''s certificate or handshake was not good'),
    ('answer_lost',         'network',  'theirs', false, true,  'the connection broke after the payment had left'),
    ('answer_timeout',      'network',  'theirs', false, true,  'no answer in time after the payment had left'),
    ('body_broken',         'network',  'theirs', false, true,  'the paid answer broke off before its end'),
    ('client_gone',         'network',  'caller', false, false, 'the program hung up'),
    ('asked_again',         'payment',  'theirs', false, true,  'the provider answered 402 to a payment'),
    ('memo_refused',        'payment',  'theirs', false, true,  'the provider''s facilitator takes no memo'),
    ('not_settled',         'payment',  'theirs', false, true,  'the provider answered a payment without settling it'),
    ('paid_failed',         'payment',  'theirs', false, true,  'the provider took the money and delivered an error'),
    ('claimed_not_landed',  'payment',  'theirs', false, true,  'the provider named a transaction that does not exist'),
    ('insufficient_funds',  'funds',    'ours',   false, false, 'the wallet holds too little'),
    ('no_wallet',           'funds',    'ours',   false, false, 'there is no wallet to pay from'),
    ('no_destination_account','funds',  'theirs', false, false, 'the receiver has no account for this token'),
    ('rpc_unavailable',     'chain',    'ours',   true,  false, 'our own view of the chain is not available'),
    ('network_not_configured','chain',  'ours',   false, false, 'the provider wants a chain that is not configured'),
    ('blockhash_in_use',    'chain',    'ours',   true,  false, 'equal payments are under way'),
    ('unsafe_offer',        'policy',   'theirs', false, false, 'the offer could not be signed as it was decided on'),
    ('ledger_unavailable',  'database', 'ours',   true,  false, 'the books could not be written, so nothing was paid'),
    ('denied',              'policy',   'caller', false, false, 'the agent''s policy or a budget said no'),
    ('not_payable',         'policy',   'theirs', false, false, 'the 402 named nothing that can be paid'),
    ('proved_dead',         'chain',    'theirs', false, true,  'the payment never landed and no longer can')
ON CONFLICT (code) DO NOTHING;

-- One row per request that met a 402.
CREATE TABLE IF NOT EXISTS api_requests (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id          uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    session_id        text,
    trace_id          text,
    provider          text NOT NULL DEFAULT '',
    method            text NOT NULL DEFAULT 'GET',
    endpoint          text NOT NULL,
    api_type          api_type NOT NULL DEFAULT 'MARKET_DATA',
    http_status       integer NOT NULL,
    x402_instructions jsonb,
    request_payload   jsonb,
    response_headers  jsonb,
    data_accessed     jsonb,
    status            request_status NOT NULL DEFAULT 'PENDING',
    error_class       text REFERENCES error_classifications (code) ON DELETE RESTRICT,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
COMMENT ON COLUMN api_requests.endpoint IS 'scheme://host/path, without the query';
COMMENT ON COLUMN api_requests.http_status IS 'the newest answer of the provider: 402, then that of the paid request';
COMMENT ON COLUMN api_requests.x402_instructions IS 'the challenge as it was understood: version, offers, the one that was chosen';
COMMENT ON COLUMN api_requests.request_payload IS 'only where the operator says so ([providers.X] store_request)';
COMMENT ON COLUMN api_requests.data_accessed IS 'only where the operator says so ([providers.X] store_data)';
COMMENT ON COLUMN api_requests.response_headers IS 'of the 402, only names that can''t hold a secret';
CREATE INDEX IF NOT EXISTS idx_api_requests_endpoint ON api_requests (agent_id, endpoint);
CREATE INDEX IF NOT EXISTS idx_api_requests_status ON api_requests (agent_id, status, created_at);
CREATE INDEX IF NOT EXISTS idx_api_requests_created ON api_requests (created_at DESC);
-- Answers "which challenges offered this" (@>, @?, @@), at a third of the size of the default operators'
-- index, and of what each change of a request's row costs.
CREATE INDEX IF NOT EXISTS idx_api_requests_instructions ON api_requests USING gin (x402_instructions jsonb_path_ops);

-- The life of a request. ACCESSED and FAILED are its ends, but a payment in doubt may still turn
-- out to have been good: FAILED to PAID.
CREATE OR REPLACE FUNCTION guard_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('PENDING', 'PAYMENT_REQUIRED'), ('PENDING', 'FAILED'),
        ('PAYMENT_REQUIRED', 'PAID'), ('PAYMENT_REQUIRED', 'FAILED'),
        ('PAID', 'ACCESSED'), ('PAID', 'FAILED'), ('FAILED', 'PAID')
    ) THEN
        RAISE EXCEPTION 'request % cannot go from % to %', NEW.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'request_transition';
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS api_requests_guard ON api_requests;
CREATE TRIGGER api_requests_guard BEFORE UPDATE ON api_requests
    FOR EACH ROW EXECUTE FUNCTION guard_request();

-- Payments from before had no request row: each gets the one it must have had.
ALTER TABLE payments
    ADD COLUMN IF NOT EXISTS api_request_id uuid REFERENCES api_requests (id) ON DELETE RESTRICT,
    ADD COLUMN IF NOT EXISTS decimals smallint NOT NULL DEFAULT 6 CHECK (decimals BETWEEN 0 AND 18),
    ADD COLUMN IF NOT EXISTS facilitator_url varchar(255),
    ADD COLUMN IF NOT EXISTS url_sealed bytea,
    ADD COLUMN IF NOT EXISTS request_key bytea CHECK (octet_length(request_key) = 32),
    ADD COLUMN IF NOT EXISTS instance uuid;
ALTER TABLE payments DISABLE TRIGGER payments_guard;  -- nothing happened to them: updated_at stays
WITH made AS (
    INSERT INTO api_requests (id, agent_id, session_id, trace_id, provider, method, endpoint,
                              http_status, status, created_at, updated_at)
    SELECT p.id, p.agent_id, p.session_id, p.trace_id, p.provider, p.method, p.endpoint,
           coalesce(p.doubt_http_status, 402),
           CASE WHEN p.status IN ('CONFIRMED', 'VERIFIED') THEN 'PAID'
                WHEN p.status = 'FAILED' THEN 'FAILED'
                ELSE 'PAYMENT_REQUIRED' END::request_status,
           p.created_at, p.updated_at
      FROM payments p WHERE p.api_request_id IS NULL
    ON CONFLICT (id) DO NOTHING
)
UPDATE payments SET api_request_id = id WHERE api_request_id IS NULL;
ALTER TABLE payments ENABLE TRIGGER payments_guard;
ALTER TABLE payments
    ALTER COLUMN api_request_id SET NOT NULL,
    ADD COLUMN IF NOT EXISTS amount numeric(29, 9)
        GENERATED ALWAYS AS (amount_atomic * (0.1 ^ decimals::numeric)::numeric(20, 18)) STORED,
    ADD COLUMN IF NOT EXISTS mainnet_flag boolean
        GENERATED ALWAYS AS (network = 'solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp') STORED,
    ADD COLUMN IF NOT EXISTS currency payment_currency
        GENERATED ALWAYS AS (
            CASE symbol WHEN 'CASH' THEN 'CASH'::payment_currency WHEN 'USDC' THEN 'USDC'::payment_currency
                        WHEN 'USDT' THEN 'USDT'::payment_currency WHEN 'USDG' THEN 'USDG'::payment_currency
                        WHEN 'PYUSD' THEN 'PYUSD'::payment_currency END) STORED;
COMMENT ON COLUMN payments.amount IS 'amount_atomic in whole tokens';
COMMENT ON COLUMN payments.url_sealed IS
    'the URL with its query, under the agent''s own key: erasing the agent destroys the key';
COMMENT ON COLUMN payments.request_key IS
    'what makes two requests of an agent the same: method, URL and body, or its idempotency key';
COMMENT ON COLUMN payments.instance IS 'the proxy process that sent it';
CREATE INDEX IF NOT EXISTS idx_payments_request ON payments (api_request_id);
CREATE INDEX IF NOT EXISTS idx_payments_open_key ON payments (agent_id, request_key, created_at DESC)
    WHERE status IN ('INITIATED', 'SIGNED') AND request_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_payments_provider ON payments (provider, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_payments_unverified ON payments (created_at) WHERE status = 'CONFIRMED';

-- Tries after the first, at most three. Rows are only added.
CREATE TABLE IF NOT EXISTS retry_attempts (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id       uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    api_request_id uuid REFERENCES api_requests (id) ON DELETE RESTRICT,
    payment_id     uuid REFERENCES payments (id) ON DELETE RESTRICT,
    attempt_number integer NOT NULL CHECK (attempt_number BETWEEN 1 AND 3),
    backoff_delay  interval NOT NULL CHECK (backoff_delay >= interval '0'),
    outcome        retry_outcome NOT NULL,
    error_class    text REFERENCES error_classifications (code) ON DELETE RESTRICT,
    error_message  text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz GENERATED ALWAYS AS (created_at) STORED,
    CHECK (api_request_id IS NOT NULL OR payment_id IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS idx_retry_attempts_request ON retry_attempts (api_request_id);
CREATE INDEX IF NOT EXISTS idx_retry_attempts_payment ON retry_attempts (payment_id);
DROP TRIGGER IF EXISTS retry_attempts_keep ON retry_attempts;
CREATE TRIGGER retry_attempts_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON retry_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
