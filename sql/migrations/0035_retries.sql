-- Asking again what was not paid for, and one table of what can go wrong.

-- The rows are those of proxy/errors.py: a test holds both against each other.
ALTER TABLE error_classifications ADD COLUMN IF NOT EXISTS told text NOT NULL DEFAULT '';
COMMENT ON COLUMN error_classifications.told IS 'what the agent gets: status and problem code, and what it says of the money';
INSERT INTO error_classifications (code, class, party, retryable, counts_for_breaker, description, told) VALUES
    ('connect_failed', 'network', 'theirs', true, true,
     'no connection to the provider; nothing was sent',
     '502 upstream_unreachable; nothing was paid'),
    ('connect_timeout', 'network', 'theirs', true, true,
     'no connection to the provider in time; nothing was sent',
     '504 upstream_timeout; nothing was paid'),
    ('tls_failed', 'network', 'theirs', false, true,
     'the provider''s certificate or handshake was not good',
     '502 upstream_unreachable; nothing was paid'),
    ('name_unknown', 'network', 'theirs', false, true,
     'there is no host of this name; nothing was sent',
     '502 upstream_unreachable; nothing was paid'),
    ('name_unresolved', 'network', 'ours', true, false,
     'the resolver does not answer for this name; nothing was sent',
     '502 upstream_unreachable; nothing was paid'),
    ('local_network', 'network', 'ours', true, false,
     'this machine has no route, port or descriptor left; nothing was sent',
     '502 upstream_unreachable; nothing was paid'),
    ('upstream_proxy_failed', 'network', 'ours', true, false,
     'the operator''s own proxy can''t be reached; nothing was sent',
     '502 upstream_proxy_failed; nothing was paid'),
    ('upstream_proxy_refused', 'network', 'ours', false, false,
     'the operator''s own proxy refuses to go there',
     '502 upstream_proxy_failed, with its status; nothing was paid'),
    ('address_forbidden', 'policy', 'caller', false, false,
     'the name leads where this agent may not be taken; nothing was sent',
     '403 egress_…; nothing was sent or paid'),
    ('connection_broke', 'network', 'theirs', true, true,
     'the connection broke before an answer came; no payment had left',
     '502 upstream_unreachable; nothing was paid'),
    ('response_timeout', 'network', 'theirs', true, true,
     'no answer in time; no payment had left',
     '504 upstream_timeout; nothing was paid'),
    ('answer_invalid', 'network', 'theirs', false, true,
     'what came is no HTTP answer, or one too large to be read',
     '502 upstream_unreachable; nothing was paid'),
    ('answer_broke_off', 'network', 'theirs', false, true,
     'an answer that was not paid for broke off, or stalled, before its end',
     'what had come of it, then a reset'),
    ('provider_unavailable', 'answer', 'theirs', true, true,
     'the provider answered 502, 503 or 504',
     'the answer as it came'),
    ('server_error', 'answer', 'theirs', true, true,
     'the provider answered with another 5xx',
     'the answer as it came'),
    ('too_many_requests', 'answer', 'caller', true, false,
     'the provider answered 429',
     'the answer as it came'),
    ('caller_error', 'answer', 'caller', false, false,
     'the provider answered with another 4xx: the request is at fault',
     'the answer as it came'),
    ('payment_required', 'answer', 'theirs', false, false,
     'the provider answered 402, and it was not paid',
     'the 402 as it came'),
    ('answer_lost', 'network', 'theirs', false, true,
     'the connection broke after the payment had left',
     '502 payment_in_doubt; the money stays held until the chain tells'),
    ('answer_timeout', 'network', 'theirs', false, true,
     'no answer in time after the payment had left',
     '502 payment_in_doubt; the money stays held until the chain tells'),
    ('body_broken', 'network', 'theirs', false, true,
     'the paid answer broke off before its end',
     'what had come of it, then a reset'),
    ('asked_again', 'payment', 'theirs', false, true,
     'the provider answered 402 to a payment',
     '502 payment_in_doubt; the money stays held until the chain tells'),
    ('memo_refused', 'payment', 'theirs', false, true,
     'the provider''s facilitator takes no memo',
     '502 payment_in_doubt; the money stays held until the chain tells'),
    ('not_settled', 'payment', 'theirs', false, true,
     'the provider answered a payment without settling it',
     'the answer, with Autopay-State: in_doubt'),
    ('paid_failed', 'payment', 'theirs', false, true,
     'the provider took the money and delivered an error',
     'the answer as it came'),
    ('claimed_not_landed', 'payment', 'theirs', false, true,
     'the provider named a transaction that does not exist',
     'nothing more; the budget gets it back'),
    ('proved_dead', 'chain', 'theirs', false, true,
     'the payment never landed and no longer can',
     'nothing more; the budget gets it back'),
    ('in_doubt', 'payment', 'theirs', true, true,
     'a payment left, and what became of it is not known',
     '502 payment_in_doubt; the money stays held until the chain tells'),
    ('in_progress', 'payment', 'caller', true, false,
     'the same request is being paid for',
     '409 request_in_progress, with Retry-After'),
    ('already_paid', 'payment', 'caller', false, false,
     'the same request was paid for, and its answer is not here any more',
     '409 already_paid; nothing was paid this time'),
    ('key_reused', 'payment', 'caller', false, false,
     'the Idempotency-Key is another request''s',
     '422 idempotency_key_reused'),
    ('insufficient_funds', 'funds', 'ours', false, false,
     'the wallet holds too little',
     '403 with this code; nothing was paid'),
    ('no_wallet', 'funds', 'ours', false, false,
     'there is no wallet to pay from',
     '403 with this code; nothing was paid'),
    ('wallet_not_configured', 'funds', 'ours', false, false,
     'the policy names a wallet that this proxy has not got',
     '403 with this code; nothing was paid'),
    ('no_destination_account', 'funds', 'theirs', false, false,
     'the receiver has no account for this token',
     '403 with this code; nothing was paid'),
    ('rpc_unavailable', 'chain', 'ours', true, false,
     'our own view of the chain is not available',
     '503 rpc_unavailable, with Retry-After'),
    ('network_not_configured', 'chain', 'ours', false, false,
     'the provider wants a chain that is not configured',
     '403 with this code; nothing was paid'),
    ('blockhash_in_use', 'chain', 'ours', true, false,
     'equal payments are under way',
     '503 blockhash_in_use, with Retry-After'),
    ('unsafe_offer', 'policy', 'theirs', false, false,
     'the offer could not be signed as it was decided on',
     '403 with this code; nothing was paid'),
    ('ledger_unavailable', 'database', 'ours', true, false,
     'the books could not be written, so nothing was paid',
     '503 ledger_unavailable, with Retry-After'),
    ('policy_changing', 'policy', 'ours', true, false,
     'the policies went on changing while a payment was decided',
     '503 policy_changed, with Retry-After'),
    ('denied', 'policy', 'caller', false, false,
     'the agent''s policy or a budget said no',
     '403 with the rule''s code; nothing was paid'),
    ('not_payable', 'policy', 'theirs', false, false,
     'the 402 named nothing that can be paid',
     'the 402 as it came'),
    ('client_gone', 'network', 'caller', false, false,
     'the program hung up',
     '408 program_hung_up, if it still listens'),
    ('request_stalled', 'program', 'caller', false, false,
     'the program''s request did not come whole in time',
     '408 request_timeout; nothing was paid'),
    ('bad_request', 'program', 'caller', false, false,
     'not a request that is understood here',
     '4xx, 501 or 505 with its code'),
    ('not_authenticated', 'program', 'caller', false, false,
     'no agent''s token, or a wrong one',
     '401 authentication_required or 407 proxy_authentication_required'),
    ('certificate_rejected', 'program', 'caller', false, false,
     'the program does not trust autopay''s certificate',
     '403 certificate_rejected'),
    ('breaker_open', 'provider', 'theirs', true, false,
     'the provider failed too often and is left alone',
     '503 breaker_open, with Retry-After and the last error; nothing was sent'),
    ('intent_failed', 'provider', 'theirs', true, false,
     'no candidate of an intent gave what was wanted',
     '502 or 503 intent_failed, with each attempt and what it cost'),
    ('overloaded', 'autopay', 'ours', true, false,
     'too many programs are connected',
     '503 too_many_connections'),
    ('stopping', 'autopay', 'ours', false, false,
     'autopay is being stopped',
     '502 upstream_unreachable; nothing was paid'),
    ('internal_error', 'autopay', 'ours', false, false,
     'a fault of autopay''s own',
     '500 internal_error; see its log')
ON CONFLICT (code) DO UPDATE SET told = EXCLUDED.told;

-- A request that was tried again without a payment has no row in the books: its retry says itself what it
-- was. Such rows are a log, not the books: they leave with the log's age, and with their agent.
ALTER TABLE retry_attempts
    ADD COLUMN IF NOT EXISTS cause    text REFERENCES error_classifications (code) ON DELETE RESTRICT,
    ADD COLUMN IF NOT EXISTS provider text,
    ADD COLUMN IF NOT EXISTS method   text,
    ADD COLUMN IF NOT EXISTS endpoint text,
    DROP CONSTRAINT IF EXISTS retry_attempts_kind_check,
    DROP CONSTRAINT IF EXISTS retry_attempts_check,
    DROP CONSTRAINT IF EXISTS retry_attempts_request_check;
ALTER TABLE retry_attempts
    ADD CONSTRAINT retry_attempts_kind_check CHECK (kind IN ('connection', 'representation', 'request')),
    ADD CONSTRAINT retry_attempts_check
        CHECK (kind = 'request' OR api_request_id IS NOT NULL OR payment_id IS NOT NULL),
    ADD CONSTRAINT retry_attempts_request_check CHECK (CASE kind
        WHEN 'request' THEN num_nulls(provider, method, endpoint) = 0
                            AND num_nonnulls(api_request_id, payment_id) = 0
        ELSE num_nonnulls(provider, method, endpoint) = 0 END);
COMMENT ON COLUMN retry_attempts.kind IS
    'connection: a payment had not left yet; representation: the same signed bytes went out again; '
    'request: there was no payment';
COMMENT ON COLUMN retry_attempts.cause IS 'why it was made; error_class is how it ended';
COMMENT ON COLUMN retry_attempts.endpoint IS 'of a request without a payment: scheme://host/path, without the query';
CREATE INDEX IF NOT EXISTS idx_retry_attempts_requests ON retry_attempts (created_at) WHERE kind = 'request';

DROP TRIGGER IF EXISTS retry_attempts_keep ON retry_attempts;
CREATE TRIGGER retry_attempts_keep BEFORE UPDATE OR TRUNCATE ON retry_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
DROP TRIGGER IF EXISTS retry_attempts_keep_rows ON retry_attempts;
CREATE TRIGGER retry_attempts_keep_rows BEFORE DELETE ON retry_attempts
    FOR EACH ROW WHEN (OLD.kind <> 'request') EXECUTE FUNCTION refuse_change();

-- A try after the first: of a payment that had not left yet, or of a request without one. Repeatable by
-- its id. An agent that is being erased meanwhile leaves none.
CREATE OR REPLACE FUNCTION note_retry(p jsonb) RETURNS text
LANGUAGE sql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
    INSERT INTO retry_attempts (id, agent_id, api_request_id, payment_id, kind, attempt_number, backoff_delay,
                                outcome, cause, error_class, error_message, provider, method, endpoint)
    SELECT (p ->> 'id')::uuid, x.agent_id, x.api_request_id, x.payment_id, x.kind, (p ->> 'attempt')::integer,
           make_interval(secs => (p ->> 'delay')::double precision),
           (p ->> 'outcome')::retry_outcome,
           (SELECT e.code FROM error_classifications e WHERE e.code = p ->> 'cause'),
           (SELECT e.code FROM error_classifications e WHERE e.code = p ->> 'error_class'), p ->> 'error',
           p ->> 'provider', p ->> 'method', p ->> 'endpoint'
      FROM (SELECT y.agent_id, y.api_request_id, y.id AS payment_id, 'connection' AS kind
              FROM payments y WHERE y.id = (p ->> 'payment_id')::uuid
            UNION ALL
            SELECT b.id, NULL, NULL, 'request'
              FROM (SELECT a.id FROM agents a
                     WHERE p ->> 'payment_id' IS NULL AND a.id = (p ->> 'agent_id')::uuid
                       AND a.erased_at IS NULL FOR SHARE) b) x
    ON CONFLICT (id) DO NOTHING;
    SELECT 'noted'
$$;

-- Retries without a payment that are more than `p_days` back; how many went.
CREATE OR REPLACE FUNCTION prune_retries(p_days integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_gone bigint;
BEGIN
    -- As for the other logs: whoever has taken over the proxy shall not wipe out what it did.
    IF p_days < 31 THEN
        RAISE EXCEPTION 'logs are kept for 31 days at least, not for %', p_days
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM retry_attempts r
     WHERE r.kind = 'request' AND r.created_at < now() - make_interval(days => p_days);
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    RETURN v_gone;
END $$;

CREATE OR REPLACE FUNCTION forget_retries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM retry_attempts WHERE agent_id = NEW.id AND kind = 'request';
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_forget_retries ON agents;
CREATE TRIGGER agents_forget_retries AFTER UPDATE OF erased_at ON agents
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION forget_retries();

REVOKE ALL ON FUNCTION prune_retries(integer), forget_retries() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION prune_retries(integer) TO autopay_writer, autopay_admin;
