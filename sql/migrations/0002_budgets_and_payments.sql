-- What is spent, what is held, and every payment from its reservation to its end.

-- One row per budget and window. The limit is not here: it is read from the policy, in the
-- transaction that spends, so that lowering it or freezing takes effect at once.
--
-- `scope` is the key AND the lock order: its two-digit rank makes "ORDER BY scope" the one order in
-- which every transaction locks counters (agent-day before session before …), so none can deadlock.
--   10/agent-day/<agent>/<day>      20/session/<agent>/<session>
CREATE TYPE budget_kind AS ENUM ('agent_day', 'session');

CREATE TABLE budget_counters (
    scope        text COLLATE "C" PRIMARY KEY,
    kind         budget_kind NOT NULL,
    agent_id     uuid REFERENCES agents (id) ON DELETE RESTRICT,
    day          date,
    session_id   text,
    spent_micros bigint NOT NULL DEFAULT 0 CHECK (spent_micros >= 0),
    held_micros  bigint NOT NULL DEFAULT 0 CHECK (held_micros >= 0),
    paid_calls   bigint NOT NULL DEFAULT 0 CHECK (paid_calls >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (kind <> 'agent_day' OR (agent_id IS NOT NULL AND day IS NOT NULL)),
    CHECK (kind <> 'session' OR (agent_id IS NOT NULL AND session_id IS NOT NULL))
) WITH (fillfactor = 40);  -- room on the page: the hot row is updated in place
CREATE INDEX idx_budget_counters_agent ON budget_counters (agent_id, kind, day);

CREATE FUNCTION agent_day_scope(p_agent_id uuid, p_day date) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT '10/agent-day/' || p_agent_id || '/' || to_char(p_day, 'YYYY-MM-DD')
$$;

CREATE FUNCTION session_scope(p_agent_id uuid, p_session_id text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT '20/session/' || p_agent_id || '/' || p_session_id
$$;

-- The limit that a policy sets for a kind of budget, and what a denial by it is called.
CREATE FUNCTION budget_limit(p_kind budget_kind, p_policy agent_policies) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_kind WHEN 'agent_day' THEN p_policy.daily_limit_micros
                       WHEN 'session'   THEN p_policy.session_limit_micros END
$$;

CREATE FUNCTION budget_denial(p_kind budget_kind) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_kind WHEN 'agent_day' THEN 'over_daily_limit'
                       WHEN 'session'   THEN 'over_session_limit' END
$$;

-- The last wall, should a caller ever come around the functions: spent + held never RISES past the
-- limit. It may stand above it (a limit lowered while money is held), and it may always fall.
CREATE FUNCTION guard_budget() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_limit bigint;
BEGIN
    SELECT budget_limit(NEW.kind, p) INTO v_limit FROM agent_policies p WHERE p.agent_id = NEW.agent_id;
    IF v_limit IS NULL OR NEW.spent_micros + NEW.held_micros > v_limit THEN
        RAISE EXCEPTION 'budget % would rise to % of %',
            NEW.scope, NEW.spent_micros + NEW.held_micros, v_limit
            USING ERRCODE = 'check_violation', CONSTRAINT = 'budget_guard';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER budget_counters_guard_insert BEFORE INSERT ON budget_counters
    FOR EACH ROW WHEN (NEW.spent_micros + NEW.held_micros > 0) EXECUTE FUNCTION guard_budget();
CREATE TRIGGER budget_counters_guard_update BEFORE UPDATE ON budget_counters
    FOR EACH ROW WHEN (NEW.spent_micros + NEW.held_micros > OLD.spent_micros + OLD.held_micros)
    EXECUTE FUNCTION guard_budget();

CREATE TYPE payment_status AS ENUM ('INITIATED', 'SIGNED', 'CONFIRMED', 'VERIFIED', 'FAILED');

-- One row per authorization, written before it leaves the process, with everything that finds it
-- on the chain if its answer is lost.
CREATE TABLE payments (
    id                      uuid PRIMARY KEY,
    agent_id                uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    status                  payment_status NOT NULL DEFAULT 'INITIATED',
    -- the books
    amount_atomic           numeric(20, 0) NOT NULL
                            CHECK (amount_atomic BETWEEN 1 AND 18446744073709551615),
    price_micros            bigint NOT NULL CHECK (price_micros BETWEEN 0 AND 999999999999999999),
    day                     date NOT NULL,
    scopes                  text[] NOT NULL CHECK (cardinality(scopes) > 0),
    policy_version          bigint NOT NULL,
    -- the request
    session_id              text,
    trace_id                text,
    provider                text NOT NULL,
    method                  text NOT NULL,
    endpoint                text NOT NULL,
    request_body_sha256     bytea CHECK (octet_length(request_body_sha256) = 32),
    -- the offer
    x402_version            smallint NOT NULL,
    network                 text NOT NULL,
    asset                   text NOT NULL,
    symbol                  text NOT NULL,
    pay_to                  text NOT NULL,
    -- the authorization
    payer                   text,
    fee_payer               text,
    source_account          text,
    destination_account     text,
    memo                    text,
    blockhash               text,
    last_valid_block_height bigint,
    blockhash_slot          bigint,
    client_signature        text,
    message_sha256          bytea UNIQUE CHECK (octet_length(message_sha256) = 32),
    payment_payload         jsonb,
    -- what became of it
    payment_hash            varchar(88) UNIQUE,
    verification_callback   jsonb,
    doubt_reason            text,
    doubt_detail            text,
    doubt_http_status       integer,
    in_doubt_since          timestamptz,
    release_reason          text CHECK (release_reason IN ('never_sent', 'proved_dead')),
    settled_at              timestamptz,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    CHECK (status IN ('INITIATED', 'FAILED') OR message_sha256 IS NOT NULL),
    CHECK ((status = 'FAILED') = (release_reason IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON COLUMN payments.price_micros IS 'what budgets are charged: the amount in micro-USD, rounded up';
COMMENT ON COLUMN payments.day IS 'the UTC day of this database at the reservation: its day budget';
COMMENT ON COLUMN payments.scopes IS 'the budget_counters that hold or spend price_micros';
COMMENT ON COLUMN payments.payment_hash IS
    'the transaction, as claimed by the provider; null too if another payment has that hash already';

CREATE INDEX idx_payments_agent ON payments (agent_id, created_at DESC);
CREATE INDEX idx_payments_open ON payments (created_at) WHERE status IN ('INITIATED', 'SIGNED');
CREATE INDEX idx_payments_session ON payments (session_id, created_at) WHERE session_id IS NOT NULL;
CREATE INDEX idx_payments_trace ON payments (trace_id, created_at) WHERE trace_id IS NOT NULL;

-- The state machine. FAILED and VERIFIED are final; nothing goes back.
CREATE FUNCTION guard_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status NOT IN ('INITIATED', 'SIGNED') THEN
            RAISE EXCEPTION 'payment % cannot begin as %', NEW.id, NEW.status
                USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_transition';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('INITIATED', 'SIGNED'), ('INITIATED', 'FAILED'),
        ('SIGNED', 'CONFIRMED'), ('SIGNED', 'FAILED'),
        ('CONFIRMED', 'VERIFIED'), ('CONFIRMED', 'FAILED')
    ) THEN
        RAISE EXCEPTION 'payment % cannot go from % to %', NEW.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_transition';
    END IF;
    -- What was decided on and signed is evidence: it never changes again.
    IF (NEW.id, NEW.agent_id, NEW.amount_atomic, NEW.price_micros, NEW.day, NEW.scopes,
        NEW.network, NEW.asset, NEW.pay_to, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.agent_id, OLD.amount_atomic, OLD.price_micros, OLD.day, OLD.scopes,
        OLD.network, OLD.asset, OLD.pay_to, OLD.created_at)
       OR OLD.status <> 'INITIATED' AND
       (NEW.message_sha256, NEW.client_signature, NEW.blockhash, NEW.last_valid_block_height,
        NEW.memo, NEW.fee_payer, NEW.source_account, NEW.destination_account, NEW.payment_payload)
       IS DISTINCT FROM
       (OLD.message_sha256, OLD.client_signature, OLD.blockhash, OLD.last_valid_block_height,
        OLD.memo, OLD.fee_payer, OLD.source_account, OLD.destination_account, OLD.payment_payload)
    THEN
        RAISE EXCEPTION 'payment %: what was reserved and signed does not change', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_evidence';
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER payments_guard BEFORE INSERT OR UPDATE ON payments
    FOR EACH ROW EXECUTE FUNCTION guard_payment();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is not for %: its rows are the books', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'check_violation', CONSTRAINT = 'books_are_final';
END $$;

CREATE TRIGGER payments_keep BEFORE DELETE OR TRUNCATE ON payments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A proxy that lost the answer to a reservation gives it up by id. If the reservation is still on
-- its way, it must find this note and not hold money for nobody.
CREATE TABLE abandoned_reservations (
    payment_id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE VIEW x402_session_spend AS
    SELECT session_id,
           agent_id,
           (spent_micros * 0.000001)::numeric(18, 6) AS total_spend_usd,
           paid_calls::integer AS paid_calls,
           updated_at,
           spent_micros,
           held_micros
    FROM budget_counters
    WHERE kind = 'session';
COMMENT ON VIEW x402_session_spend IS 'the running total of each session of each agent';
