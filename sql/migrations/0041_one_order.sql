-- One order of locks for all that moves money, erases agents and rates providers; and thumbs that are
-- counted as they come. Whole functions, each as it is from here on.
--
-- The order: the book of policies; agents (`hold_agents`, then their rows); payment ids; payment rows;
-- counters by scope; policy and limits; chains of receipts; traces (`lock_traces`); losses (402, 5);
-- ratings; provider_scores by provider and endpoint; rating_words and provider_thumbs; statistics of
-- providers by id. Nobody who holds one waits for one before it.

-- Agents. -----------------------------------------------------------------------------------------

-- Held together by all who move an agent's money, alone by whoever erases it: that touches all of an agent's
-- rows, so it waits until none of them has any, and lets none begin.
CREATE OR REPLACE FUNCTION agent_key(p_agent uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtextextended('agent ' || p_agent, 402) $$;

CREATE OR REPLACE FUNCTION hold_agents(p_agents uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(k.key)
       FROM (SELECT DISTINCT agent_key(a) AS key FROM unnest(p_agents) a WHERE a IS NOT NULL ORDER BY 1) k;
END $$;

-- What is not a row of the books, and is written beside an erasure, is not kept behind its back.
CREATE OR REPLACE FUNCTION skip_if_erased() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
BEGIN
    -- Held still until the end: an erasure comes before it, or sees it.
    PERFORM 1 FROM agents a WHERE a.id = NEW.agent_id AND a.erased_at IS NULL FOR SHARE;
    IF FOUND OR NOT EXISTS (SELECT 1 FROM agents a WHERE a.id = NEW.agent_id) THEN
        RETURN NEW;  -- of nobody's, the reference tells
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS cache_savings_erased ON cache_savings;
CREATE TRIGGER cache_savings_erased BEFORE INSERT ON cache_savings
    FOR EACH ROW EXECUTE FUNCTION skip_if_erased();
DROP TRIGGER IF EXISTS certificate_rejections_erased ON certificate_rejections;
CREATE TRIGGER certificate_rejections_erased BEFORE INSERT ON certificate_rejections
    FOR EACH ROW EXECUTE FUNCTION skip_if_erased();
DROP TRIGGER IF EXISTS chat_sessions_erased ON chat_sessions;
CREATE TRIGGER chat_sessions_erased BEFORE INSERT ON chat_sessions
    FOR EACH ROW WHEN (NEW.agent_id IS NOT NULL) EXECUTE FUNCTION skip_if_erased();

-- As in 0016 and 0033, but that rows are locked in the order of their agents: every proxy does this, and
-- others hold several agents still, too.
CREATE OR REPLACE FUNCTION adopt_wallet(p_wallet text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH without AS MATERIALIZED (
        SELECT a.id FROM agents a
         WHERE a.is_active AND a.wallet_address = '11111111111111111111111111111111'
         ORDER BY a.id FOR NO KEY UPDATE
    ), adopted AS (
        UPDATE agents a SET wallet_address = p_wallet FROM without w WHERE a.id = w.id
        RETURNING 1)
    SELECT count(*)::integer FROM adopted
$$;

CREATE OR REPLACE FUNCTION assign_wallets(p_wallets jsonb) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH named AS (
        SELECT a.id, coalesce(own.rules ->> 'wallet', defaults.rules ->> 'wallet', 'default') AS wallet
          FROM agents a
          LEFT JOIN policy_rules own ON own.agent_id = a.id AND own.provider IS NULL
          LEFT JOIN policy_rules defaults ON defaults.agent_id IS NULL AND defaults.provider IS NULL
         WHERE a.is_active
    ), others AS MATERIALIZED (
        SELECT a.id, p_wallets ->> n.wallet AS address
          FROM agents a JOIN named n ON n.id = a.id
         WHERE a.wallet_address <> p_wallets ->> n.wallet
           AND (n.wallet <> 'default' OR a.wallet_address = '11111111111111111111111111111111'
                OR a.wallet_address IN (SELECT w.value FROM jsonb_each_text(p_wallets) w))
         ORDER BY a.id FOR NO KEY UPDATE OF a
    ), assigned AS (
        UPDATE agents a SET wallet_address = o.address FROM others o WHERE o.id = a.id
        RETURNING 1)
    SELECT count(*)::integer FROM assigned
$$;

CREATE OR REPLACE FUNCTION note_balance(
    p_wallet text, p_network text, p_usdc numeric, p_cash numeric, p_threshold numeric
) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH before AS (
        SELECT agent_id FROM wallet_balances
         WHERE wallet_address = p_wallet AND network = p_network AND low_balance_event
    ), payers AS (
        SELECT a.id FROM agents a WHERE a.is_active AND a.wallet_address = p_wallet
    ), concerned AS (
        SELECT id FROM payers
        UNION ALL
        SELECT '00000000-0000-0000-0000-000000000000'::uuid WHERE NOT EXISTS (SELECT FROM payers)
    ), now_known AS (
        INSERT INTO wallet_balances AS b (agent_id, wallet_address, network, balance_usdc, balance_cash,
                                          threshold, last_checked, low_balance_event)
        SELECT c.id, p_wallet, p_network, p_usdc, p_cash, p_threshold, now(), p_usdc + p_cash < p_threshold
          FROM concerned c ORDER BY c.id
        ON CONFLICT (agent_id, wallet_address, network) DO UPDATE
           SET balance_usdc = excluded.balance_usdc, balance_cash = excluded.balance_cash,
               threshold = excluded.threshold, last_checked = excluded.last_checked,
               low_balance_event = excluded.low_balance_event
        RETURNING b.agent_id, b.low_balance_event
    )
    SELECT count(*)::integer FROM now_known n
     WHERE n.low_balance_event AND n.agent_id NOT IN (SELECT agent_id FROM before)
$$;

-- Traces. -----------------------------------------------------------------------------------------

-- Those of these scopes (NULL: none), also those that are not there yet: a row that nobody has made can't
-- be locked. Whoever waits for anything while he has a trace's row, or will have several, holds these first.
CREATE OR REPLACE FUNCTION lock_traces(p_scopes text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(k.key)
       FROM (SELECT DISTINCT hashtextextended(s, 402) AS key FROM unnest(p_scopes) s
              WHERE s IS NOT NULL ORDER BY 1) k;
END $$;

-- As in 0030, but that the payment's trace is locked before: whoever settles or disproves it ends its step
-- after this, and a batch that denies on that trace may be waiting to weigh a loss.
CREATE OR REPLACE FUNCTION weigh_loss(p_payment uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v      payments;
    v_loss losses;
BEGIN
    PERFORM lock_traces(ARRAY(SELECT trace_scope(p.agent_id, p.trace_id) FROM payments p WHERE p.id = p_payment));
    PERFORM pg_advisory_xact_lock(402, 5);
    SELECT * INTO v FROM payments p WHERE p.id = p_payment;
    IF v.status IN ('CONFIRMED', 'VERIFIED')
       AND NOT EXISTS (SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = v.id AND d.success)
       AND (EXISTS (SELECT 1 FROM x402_payment_logs l WHERE l.id = v.id AND l.source = 'chain')
            OR EXISTS (SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = v.id
                          AND (d.status >= 400 OR d.error IS NULL OR d.error NOT IN (
                              'the program hung up', 'the program hung up, and its answer is too large to be kept',
                              'autopay failed in the middle of it (see its log)'))))
    THEN
        INSERT INTO losses (payment_id, agent_id, provider, micros)
        VALUES (v.id, v.agent_id, plain_origin(v.provider), v.price_micros)
        ON CONFLICT DO NOTHING RETURNING * INTO v_loss;
        INSERT INTO loss_counters AS c (day, agent_id, provider, lost_micros, lost_calls)
        SELECT v_loss.day, k.agent_id, k.provider, v_loss.micros, 1
          FROM (VALUES (v_loss.agent_id, NULL), (NULL, v_loss.provider), (v_loss.agent_id, v_loss.provider))
               k (agent_id, provider)
         WHERE v_loss.payment_id IS NOT NULL
        ON CONFLICT (day, agent_id, provider) DO UPDATE
           SET lost_micros = c.lost_micros + excluded.lost_micros, lost_calls = c.lost_calls + 1,
               updated_at = now();
    ELSE
        DELETE FROM losses l WHERE l.payment_id = p_payment RETURNING * INTO v_loss;
        UPDATE loss_counters c
           SET lost_micros = c.lost_micros - v_loss.micros, lost_calls = c.lost_calls - 1, updated_at = now()
         WHERE c.day = v_loss.day AND (c.agent_id IS NULL OR c.agent_id = v_loss.agent_id)
           AND (c.provider IS NULL OR c.provider = v_loss.provider);
    END IF;
END $$;

-- Batches. ----------------------------------------------------------------------------------------

-- As in 0017, but that its agent is held.
CREATE OR REPLACE FUNCTION reserve(p_request jsonb) RETURNS reservation
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    q reservation_request := jsonb_populate_record(NULL::reservation_request, p_request);
BEGIN
    PERFORM hold_policies();
    PERFORM hold_agents(ARRAY[q.agent_id]);
    PERFORM lock_payment_id(q.payment_id);
    PERFORM lock_counters(ARRAY[q], now());
    RETURN take(q);
END $$;

-- Many moves in one transaction, in order: one round trip and one flush to disk for all of them. One
-- that fails fails alone. All locks are taken first, in the one order, so that batches of many
-- proxies can't wait for each other in a circle.
CREATE OR REPLACE FUNCTION tick(p_moves jsonb)
RETURNS TABLE (ordinal integer, outcome jsonb, failure text, sqlstate_ text)
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_requests reservation_request[];
    v_ids      uuid[];   -- of payments that are moved
    v_told     uuid[];   -- of those that are only told of
    v_denials  uuid[];
    v_agents   uuid[];
    v_move     jsonb;
    v_reserved integer := 0;
BEGIN
    PERFORM hold_policies();
    SELECT array_agg(DISTINCT i.id) FILTER (WHERE i.move IN ('reserve', 'settle', 'release', 'doubt')),
           -- A delivery refers to its payment, and may be a loss (0030); so does a retry.
           array_agg(DISTINCT i.id) FILTER (WHERE i.move IN ('deliver', 'retry')),
           array_agg(DISTINCT i.denial) FILTER (WHERE i.move = 'deny'),
           array_agg(DISTINCT i.agent)
      INTO v_ids, v_told, v_denials, v_agents
      FROM (SELECT m ->> 'move' AS move, (m -> 'args' ->> 'payment_id')::uuid AS id,
                   (m -> 'args' ->> 'agent_id')::uuid AS agent, (m -> 'args' ->> 'id')::uuid AS denial
              FROM jsonb_array_elements(p_moves) m) i;
    PERFORM hold_agents(v_agents || ARRAY(SELECT x.agent_id FROM payments x WHERE x.id = ANY (v_ids || v_told)));
    PERFORM lock_payment_id(i.id) FROM (SELECT DISTINCT unnest(v_ids || v_denials) AS id ORDER BY 1) i;
    PERFORM 1 FROM payments x WHERE x.id = ANY (v_ids || v_told) ORDER BY x.id FOR UPDATE;
    SELECT array_agg(jsonb_populate_record(NULL::reservation_request, m -> 'args') ORDER BY n) INTO v_requests
      FROM jsonb_array_elements(p_moves) WITH ORDINALITY o (m, n) WHERE m ->> 'move' = 'reserve';
    PERFORM lock_counters(v_requests, now(), ARRAY(
        SELECT DISTINCT s FROM payments x, unnest(x.scopes) s WHERE x.id = ANY (v_ids)));
    -- The chains of receipts (0025) before the first of them grows: two batches of different days
    -- share no counter, so nothing else would keep them in one order.
    SELECT array_agg(DISTINCT x.agent_id) INTO v_agents
      FROM jsonb_array_elements(p_moves) m JOIN payments x ON x.id = (m -> 'args' ->> 'payment_id')::uuid
     WHERE m ->> 'move' IN ('settle', 'deliver');
    PERFORM 1 FROM receipt_chains c WHERE c.agent_id = ANY (v_agents) ORDER BY c.agent_id FOR NO KEY UPDATE;
    -- A denial takes from no counter, so nothing else would keep two of them in one order.
    PERFORM lock_traces(ARRAY(
        SELECT trace_scope((m -> 'args' ->> 'agent_id')::uuid, m -> 'args' ->> 'trace_id')
          FROM jsonb_array_elements(p_moves) m WHERE m ->> 'move' IN ('reserve', 'deny')
        UNION ALL
        SELECT trace_scope(x.agent_id, x.trace_id) FROM payments x WHERE x.id = ANY (v_ids || v_told)));

    ordinal := -1;
    FOR v_move IN SELECT m FROM jsonb_array_elements(p_moves) m LOOP
        ordinal := ordinal + 1;
        outcome := NULL;
        failure := NULL;
        sqlstate_ := NULL;
        v_reserved := v_reserved + (v_move ->> 'move' = 'reserve')::integer;
        BEGIN
            CASE v_move ->> 'move'
                WHEN 'reserve' THEN outcome := to_jsonb(take(v_requests[v_reserved]));
                WHEN 'settle'  THEN
                    -- Its program has gone, and its answer is on its way (0040).
                    IF v_move -> 'args' ? 'coming_seconds' THEN
                        PERFORM keep_answer((v_move -> 'args' ->> 'payment_id')::uuid, false, NULL,
                                            (v_move -> 'args' ->> 'coming_seconds')::double precision, 2147483647);
                    END IF;
                    outcome := to_jsonb(settle(v_move -> 'args'));
                WHEN 'release' THEN outcome := to_jsonb(release(
                    (v_move -> 'args' ->> 'payment_id')::uuid, v_move -> 'args' ->> 'reason'));
                WHEN 'doubt'   THEN outcome := to_jsonb(doubt(
                    (v_move -> 'args' ->> 'payment_id')::uuid, v_move -> 'args' ->> 'reason',
                    v_move -> 'args' ->> 'detail', (v_move -> 'args' ->> 'http_status')::integer));
                WHEN 'deliver' THEN outcome := to_jsonb(deliver(v_move -> 'args'));
                WHEN 'deny'    THEN outcome := to_jsonb(note_denial(v_move -> 'args'));
                WHEN 'retry'   THEN outcome := to_jsonb(note_retry(v_move -> 'args'));
            END CASE;
        EXCEPTION WHEN OTHERS THEN
            failure := SQLERRM;
            sqlstate_ := SQLSTATE;
        END;
        RETURN NEXT;
    END LOOP;
END $$;

-- What the chain tells. ---------------------------------------------------------------------------

-- As in 0020, but that the agents are held.
CREATE OR REPLACE FUNCTION claim_transaction(p_id uuid, p_signature text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
BEGIN
    PERFORM hold_agents(ARRAY(
        SELECT p.agent_id FROM payments p WHERE p.id = p_id OR p.payment_hash = p_signature));
    PERFORM lock_payment_id(p_id);
    PERFORM 1 FROM payments p WHERE p.id = p_id OR p.payment_hash = p_signature ORDER BY p.id FOR UPDATE;
    UPDATE payments p SET payment_hash = NULL WHERE p.payment_hash = p_signature AND p.id <> p_id;
END $$;

-- As in 0020, but that its agent is held.
CREATE OR REPLACE FUNCTION disprove(p_id uuid, p_proof text, p_seen jsonb DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_payment payments;
    v_claimed boolean;
    v_named   text;
    v_existed boolean;
    v_code    text;
BEGIN
    PERFORM hold_policies();
    IF p_seen IS NULL THEN
        PERFORM hold_agents(ARRAY(SELECT p.agent_id FROM payments p WHERE p.id = p_id));
        PERFORM lock_payment_id(p_id);
    ELSE
        PERFORM claim_transaction(p_id, p_seen ->> 'signature');
    END IF;
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF v_payment.status = 'FAILED' THEN
        RETURN 'already';
    ELSIF v_payment.status = 'VERIFIED' THEN
        RETURN 'verified';
    END IF;
    DELETE FROM chain_doubts d WHERE d.payment_id = p_id;
    IF p_seen IS NOT NULL THEN
        PERFORM note_transaction(v_payment, 'FINALIZED', p_seen, p_proof);
    END IF;
    IF v_payment.status <> 'CONFIRMED' THEN
        RETURN release(p_id, 'proved_dead');
    END IF;

    SELECT l.claimed, l.settle_tx_hash INTO v_claimed, v_named FROM x402_payment_logs l WHERE l.id = p_id;
    -- Confirmed by our own eyes once, then gone with its fork: no lie of the provider's.
    v_existed := EXISTS (
        SELECT 1 FROM transaction_logs t
         WHERE t.payment_id = p_id AND t.confirmation_status = 'CONFIRMED' AND t.error_message IS NULL);
    IF p_seen IS NULL AND v_named IS NOT NULL THEN
        PERFORM note_transaction(v_payment, 'PROCESSED',
                                 jsonb_build_object('signature', v_named, 'claimed_by', v_payment.provider), p_proof);
    END IF;
    v_code := CASE WHEN v_existed THEN 'rolled_back' WHEN v_claimed THEN 'claimed_not_landed'
                   ELSE 'served_unpaid' END;
    PERFORM move_spent_back(v_payment);
    PERFORM set_config('autopay.reason', v_code, true);
    UPDATE payments p
       SET status = 'FAILED', release_reason = 'proved_dead',
           payment_hash = CASE WHEN p_seen IS NULL THEN NULL ELSE p_seen ->> 'signature' END
     WHERE p.id = p_id;
    PERFORM set_config('autopay.reason', '', true);
    PERFORM end_step(v_payment, 'failed', -v_payment.price_micros, NULL);
    PERFORM note_event(
        v_payment.agent_id,
        CASE WHEN v_claimed AND NOT v_existed THEN 'ALARM' ELSE 'PAYMENT_STATUS' END::audit_event_type,
        p_id,
        jsonb_strip_nulls(jsonb_build_object(
            'code', v_code,
            'provider', v_payment.provider, 'claimed', v_named, 'proof', p_proof,
            'price_micros', v_payment.price_micros)),
        CASE WHEN v_claimed AND NOT v_existed THEN 'ERROR' ELSE 'WARNING' END::audit_severity);
    RETURN 'reversed';
END $$;

-- As in 0027, but that its agent is held, before its id is.
CREATE OR REPLACE FUNCTION rebuild_payment(p jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    q         reservation_request := jsonb_populate_record(NULL::reservation_request, p);
    v_day     date := p ->> 'day';
    v_scopes  text[];
    v_status  payment_status;
    v_policy  agent_policies;
    v_outcome text;
BEGIN
    PERFORM hold_policies();
    -- Agents that have not paid yet have no wallet of their own in the books.
    SELECT CASE count(*) WHEN 1 THEN min(a.id::text) ELSE '00000000-0000-0000-0000-000000000000' END::uuid
      INTO q.agent_id FROM agents a
     WHERE a.wallet_address IN (q.payer, '11111111111111111111111111111111') AND a.is_active
       AND a.id <> '00000000-0000-0000-0000-000000000000';
    PERFORM hold_agents(ARRAY[q.agent_id]);
    q.payment_id := md5(p ->> 'transaction')::uuid;  -- the same again, if it is done again
    PERFORM lock_payment_id(q.payment_id);
    SELECT x.status INTO v_status FROM payments x
     WHERE x.client_signature = q.client_signature OR x.message_sha256 = q.message_sha256;
    IF FOUND THEN
        RETURN CASE v_status WHEN 'FAILED' THEN 'freed' ELSE 'known' END;
    END IF;
    SELECT x.provider INTO q.provider FROM payments x
     WHERE x.pay_to = q.pay_to AND x.network = q.network ORDER BY x.created_at DESC LIMIT 1;
    q.provider := coalesce(q.provider, 'unknown');
    PERFORM lock_counters(ARRAY[q], least((v_day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 s', now()));
    v_scopes := ARRAY(
        SELECT c.scope FROM counters_of(q, limits_of(q.agent_id, q.provider),
                                        least((v_day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 s', now())) c
         WHERE c.kind <> 'rolling');
    SELECT x.* INTO v_policy FROM agent_policies x WHERE x.agent_id = q.agent_id FOR SHARE;

    INSERT INTO api_requests (id, agent_id, provider, method, endpoint, api_type, http_status, status)
    VALUES (q.payment_id, q.agent_id, q.provider, 'UNKNOWN', 'unknown', 'MARKET_DATA', 402, 'PAYMENT_REQUIRED');
    INSERT INTO payments (
        id, agent_id, status, amount_atomic, price_micros, day, scopes, policy_version, provider, method,
        endpoint, api_request_id, x402_version, network, asset, symbol, decimals, pay_to, payer, fee_payer,
        source_account, destination_account, memo, blockhash, client_signature, message_sha256)
    VALUES (
        q.payment_id, q.agent_id, 'SIGNED', q.amount_atomic, q.price_micros, v_day, v_scopes,
        coalesce(v_policy.version, 0), q.provider, 'UNKNOWN', 'unknown', q.payment_id, 0, q.network, q.asset,
        q.symbol, q.decimals, q.pay_to, q.payer, q.fee_payer, q.source_account, q.destination_account, q.memo,
        q.blockhash, q.client_signature, q.message_sha256);
    INSERT INTO policy_decision_logs (
        payment_id, agent_id, method, endpoint, decision, reason, detail, policy_version,
        quoted_price_micros, spent_today_micros, reserved_micros, remaining_daily_micros, day)
    VALUES (q.payment_id, q.agent_id, 'UNKNOWN', 'unknown', 'allow', 'rebuilt',
            'the decision is lost; the payment was found on the chain', v_policy.version,
            q.price_micros, 0, 0, 0, v_day);
    PERFORM set_config('autopay.reason', 'rebuilt', true);
    UPDATE budget_counters c
       SET held_micros = c.held_micros + q.price_micros, held_calls = c.held_calls + 1, updated_at = now(),
           top_limit_micros = CASE WHEN counter_limit(c, v_policy) IS NULL THEN 999999999999999999
                                   ELSE greatest(c.top_limit_micros, counter_limit(c, v_policy)) END
     WHERE c.scope = ANY (v_scopes);
    PERFORM set_config('autopay.reason', '', true);
    v_outcome := verify_payment(q.payment_id, p -> 'seen');
    IF v_outcome <> 'verified' THEN
        RAISE EXCEPTION 'payment % of % cannot be written down: %', q.payment_id, p ->> 'transaction', v_outcome;
    END IF;
    PERFORM note_event(q.agent_id, 'PAYMENT_STATUS', q.payment_id, jsonb_build_object(
        'code', 'rebuilt_from_chain', 'transaction', p ->> 'transaction', 'provider', q.provider,
        'price_micros', q.price_micros), 'WARNING');
    RETURN 'rebuilt';
END $$;

-- Thumbs. -----------------------------------------------------------------------------------------

-- Each user's last word on each payment, whether said of the receipt or of the message: what is counted.
-- Private, as the ratings are; it comes and goes with them.
CREATE TABLE IF NOT EXISTS rating_words (
    receipt_id   uuid NOT NULL,
    user_address text NOT NULL,
    provider     text NOT NULL,
    endpoint     text NOT NULL,
    is_positive  boolean NOT NULL,
    said_at      timestamptz NOT NULL,
    PRIMARY KEY (receipt_id, user_address)
);
CREATE INDEX IF NOT EXISTS idx_rating_words_provider ON rating_words (provider, endpoint);
-- A user's words on one payment, in each of both tables.
CREATE INDEX IF NOT EXISTS idx_message_ratings_receipt ON message_ratings (receipt_id, user_address)
    WHERE receipt_id IS NOT NULL;

-- Their sums: of a provider (endpoint '') and of each endpoint; counted, and faded with a half-life of a
-- week, as of `weighed_at`. One more word is one more addition, however many there are.
CREATE TABLE IF NOT EXISTS provider_thumbs (
    provider   text NOT NULL,
    endpoint   text NOT NULL DEFAULT '',
    ups        bigint NOT NULL,
    downs      bigint NOT NULL,
    up         double precision NOT NULL,
    down       double precision NOT NULL,
    weighed_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, endpoint)
) WITH (fillfactor = 70);
COMMENT ON COLUMN provider_thumbs.up IS 'a sum of weights, each 1 when it was said and half of that a week later';

-- What a word weighs that was said so long ago.
CREATE OR REPLACE FUNCTION word_weight(p_age interval, p_half_life_seconds double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT power(2::double precision, -least(1000, greatest(0, extract(epoch FROM p_age) / p_half_life_seconds)))
$$;

-- What a sum of weights is so much later. Far below what could be seen it stays: an underflow is an error.
CREATE OR REPLACE FUNCTION faded_thumbs(p_sum double precision, p_age interval) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN abs(p_sum) < 1e-200 THEN p_sum
                ELSE p_sum * power(2::double precision, -least(300, greatest(0, extract(epoch FROM p_age) / 604800))) END
$$;

-- The thumbs for a provider, or for one endpoint of it ('': all): each user's last word on each payment,
-- faded. Sums only: who said what is private. With a half-life of a week they are kept; with another one
-- they are added up anew. Strict: of no provider there is no row, and nothing is looked for.
CREATE OR REPLACE FUNCTION thumbs(p_provider text, p_endpoint text, p_half_life_seconds double precision)
RETURNS TABLE (up double precision, down double precision)
LANGUAGE plpgsql STABLE STRICT ROWS 1 SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
BEGIN
    IF p_half_life_seconds = 604800 THEN
        SELECT faded_thumbs(t.up, now() - t.weighed_at), faded_thumbs(t.down, now() - t.weighed_at)
          INTO up, down FROM provider_thumbs t
         WHERE t.provider = p_provider AND t.endpoint = p_endpoint;
    ELSE
        SELECT sum(word_weight(now() - w.said_at, p_half_life_seconds)) FILTER (WHERE w.is_positive),
               sum(word_weight(now() - w.said_at, p_half_life_seconds)) FILTER (WHERE NOT w.is_positive)
          INTO up, down FROM rating_words w
         WHERE w.provider = p_provider AND p_endpoint IN ('', w.endpoint);
    END IF;
    up := coalesce(up, 0);
    down := coalesce(down, 0);
    RETURN NEXT;
END $$;

-- Locks what words on these providers and endpoints change, all of it in the one order, and tells the
-- proxies, which look at what has changed, that there is something new to weigh. From here on nobody else
-- rates these providers until this transaction is over.
CREATE OR REPLACE FUNCTION begin_rating(p_providers text[], p_endpoints text[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO provider_scores AS s (provider, endpoint, rated_at)
    SELECT k.provider, k.endpoint, now()
      FROM (SELECT p, '' FROM unnest(p_providers) p
             UNION
            SELECT x.provider, x.endpoint FROM unnest(p_providers, p_endpoints) r (provider, endpoint)
              JOIN provider_scores x ON x.provider = r.provider AND x.endpoint = r.endpoint) k (provider, endpoint)
     ORDER BY k.provider, k.endpoint
    ON CONFLICT (provider, endpoint) DO UPDATE SET rated_at = now(), updated_at = now();
    PERFORM 1 FROM x402_procurement_provider_stats s
      WHERE s.id = ANY (p_providers) ORDER BY s.id FOR NO KEY UPDATE;
END $$;

-- Keeps both to what the ratings say, after every statement that changes any of them.
CREATE OR REPLACE FUNCTION note_ratings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_receipts  uuid[];
    v_users     text[];
    v_providers text[];
    v_endpoints text[];
    v_gone      rating_words[];
    v_said      rating_words[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(x.receipt_id), array_agg(x.user_address), array_agg(x.provider), array_agg(x.endpoint)
          INTO v_receipts, v_users, v_providers, v_endpoints FROM became x WHERE x.provider IS NOT NULL;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(x.receipt_id), array_agg(x.user_address), array_agg(x.provider), array_agg(x.endpoint)
          INTO v_receipts, v_users, v_providers, v_endpoints FROM was x WHERE x.provider IS NOT NULL;
    ELSE
        SELECT array_agg(x.receipt_id), array_agg(x.user_address), array_agg(x.provider), array_agg(x.endpoint)
          INTO v_receipts, v_users, v_providers, v_endpoints
          FROM (SELECT o.receipt_id, o.user_address, o.provider, o.endpoint FROM was o
                 UNION SELECT n.receipt_id, n.user_address, n.provider, n.endpoint FROM became n) x
         WHERE x.provider IS NOT NULL;
    END IF;
    IF v_receipts IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM begin_rating(v_providers, v_endpoints);

    WITH gone AS (
        DELETE FROM rating_words w USING (
            SELECT DISTINCT p.* FROM unnest(v_receipts, v_users) p (receipt_id, user_address)) p
         WHERE w.receipt_id = p.receipt_id AND w.user_address = p.user_address RETURNING w.*)
    SELECT array_agg(g) INTO v_gone FROM gone g;
    WITH said AS (
        INSERT INTO rating_words (receipt_id, user_address, provider, endpoint, is_positive, said_at)
        SELECT p.receipt_id, p.user_address, l.provider, l.endpoint, l.is_positive, coalesce(l.created_at, now())
          FROM (SELECT DISTINCT p.* FROM unnest(v_receipts, v_users) p (receipt_id, user_address)) p
         CROSS JOIN LATERAL (
            SELECT w.* FROM (
                SELECT r.provider, r.endpoint, r.is_positive, r.created_at FROM receipt_ratings r
                 WHERE r.receipt_id = p.receipt_id AND r.user_address = p.user_address
                UNION ALL
                SELECT m.provider, m.endpoint, m.is_positive, m.created_at FROM message_ratings m
                 WHERE m.receipt_id = p.receipt_id AND m.user_address = p.user_address) w
             WHERE w.provider IS NOT NULL ORDER BY w.created_at DESC LIMIT 1) l
        RETURNING *)
    SELECT array_agg(s) INTO v_said FROM said s;

    INSERT INTO provider_thumbs AS t (provider, endpoint, ups, downs, up, down, weighed_at)
    SELECT c.provider, e.endpoint, sum(c.sign * c.is_positive::integer), sum(c.sign * (NOT c.is_positive)::integer),
           coalesce(sum(c.sign * word_weight(now() - c.said_at, 604800)) FILTER (WHERE c.is_positive), 0),
           coalesce(sum(c.sign * word_weight(now() - c.said_at, 604800)) FILTER (WHERE NOT c.is_positive), 0), now()
      FROM (SELECT g.provider, g.endpoint, g.is_positive, g.said_at, -1 AS sign FROM unnest(v_gone) g
            UNION ALL
            SELECT s.provider, s.endpoint, s.is_positive, s.said_at, 1 FROM unnest(v_said) s) c
     CROSS JOIN LATERAL (VALUES (''), (c.endpoint)) e (endpoint)
     GROUP BY c.provider, e.endpoint ORDER BY c.provider, e.endpoint
    ON CONFLICT (provider, endpoint) DO UPDATE SET
        ups = t.ups + excluded.ups, downs = t.downs + excluded.downs,
        -- Of no words the sum is nothing; of some it is not, whatever rounding made of it. And whoever has
        -- waited for another rating may have begun before it.
        up = CASE WHEN t.ups + excluded.ups = 0 THEN 0 ELSE greatest(1e-200,
            faded_thumbs(t.up, now() - t.weighed_at) + faded_thumbs(excluded.up, t.weighed_at - now())) END,
        down = CASE WHEN t.downs + excluded.downs = 0 THEN 0 ELSE greatest(1e-200,
            faded_thumbs(t.down, now() - t.weighed_at) + faded_thumbs(excluded.down, t.weighed_at - now())) END,
        weighed_at = greatest(t.weighed_at, now()), updated_at = now();
    DELETE FROM provider_thumbs t WHERE t.provider = ANY (v_providers) AND t.ups + t.downs = 0;
    -- What the seed keeps of it: the rate as of this rating, beginning with two thumbs of each kind.
    UPDATE x402_procurement_provider_stats s SET quality = round(((t.up + 2) / (t.up + t.down + 4))::numeric, 6)
      FROM (SELECT DISTINCT p FROM unnest(v_providers) p) r (provider), thumbs(r.provider, '', 604800) t
     WHERE s.id = r.provider;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS receipt_ratings_note ON receipt_ratings;
DROP TRIGGER IF EXISTS message_ratings_note ON message_ratings;
DROP FUNCTION IF EXISTS note_rating();
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['receipt_ratings', 'message_ratings'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %I', v_table || '_said', v_table);
        EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %I REFERENCING NEW TABLE AS became '
                       'FOR EACH STATEMENT EXECUTE FUNCTION note_ratings()', v_table || '_said', v_table);
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %I', v_table || '_changed', v_table);
        EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %I REFERENCING OLD TABLE AS was NEW TABLE AS became '
                       'FOR EACH STATEMENT EXECUTE FUNCTION note_ratings()', v_table || '_changed', v_table);
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %I', v_table || '_gone', v_table);
        EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON %I REFERENCING OLD TABLE AS was '
                       'FOR EACH STATEMENT EXECUTE FUNCTION note_ratings()', v_table || '_gone', v_table);
    END LOOP;
END $$;

-- What was said before. Nobody rates meanwhile: the triggers have locked both tables.
INSERT INTO rating_words (receipt_id, user_address, provider, endpoint, is_positive, said_at)
SELECT DISTINCT ON (w.receipt_id, w.user_address)
       w.receipt_id, w.user_address, w.provider, w.endpoint, w.is_positive, coalesce(w.created_at, now())
  FROM (SELECT r.receipt_id, r.user_address, r.provider, r.endpoint, r.is_positive, r.created_at FROM receipt_ratings r
        UNION ALL
        SELECT m.receipt_id, m.user_address, m.provider, m.endpoint, m.is_positive, m.created_at FROM message_ratings m) w
 WHERE w.provider IS NOT NULL
 ORDER BY w.receipt_id, w.user_address, w.created_at DESC
ON CONFLICT DO NOTHING;
INSERT INTO provider_thumbs (provider, endpoint, ups, downs, up, down, weighed_at)
SELECT w.provider, e.endpoint, count(*) FILTER (WHERE w.is_positive), count(*) FILTER (WHERE NOT w.is_positive),
       coalesce(sum(word_weight(now() - w.said_at, 604800)) FILTER (WHERE w.is_positive), 0),
       coalesce(sum(word_weight(now() - w.said_at, 604800)) FILTER (WHERE NOT w.is_positive), 0), now()
  FROM rating_words w CROSS JOIN LATERAL (VALUES (''), (w.endpoint)) e (endpoint)
 GROUP BY w.provider, e.endpoint
ON CONFLICT DO NOTHING;

-- Erasing. ----------------------------------------------------------------------------------------

-- As in 0018, but for the order: the agent is held alone, so that nobody who moves money has any of its
-- rows; then its counters before its payments, as `count_window` (0029) locks them, which has the book
-- alone; then all that its ratings change. References to the agent go on being written meanwhile: whoever
-- writes one may have a row that is to be erased.
CREATE OR REPLACE FUNCTION erase_agent(p_name text, p_by text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_agent     uuid;
    v_alias     text;
    v_providers text[];
    v_endpoints text[];
    -- Lives as long as this call: without it, no pseudonym leads back.
    v_salt      text := gen_random_uuid()::text || gen_random_uuid()::text;
BEGIN
    SELECT a.id INTO v_agent FROM agents a
     WHERE a.name = p_name AND a.id <> '00000000-0000-0000-0000-000000000000';
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(agent_key(v_agent));
    PERFORM 1 FROM agents a WHERE a.id = v_agent AND a.name = p_name FOR NO KEY UPDATE;
    IF NOT FOUND THEN  -- somebody else has erased it meanwhile
        RETURN NULL;
    END IF;
    v_alias := 'erased-' || left(encode(sha256(convert_to(v_salt, 'UTF8')), 'hex'), 12);
    PERFORM set_config('autopay.erasing', 'on', true);

    PERFORM 1 FROM budget_counters c WHERE c.agent_id = v_agent ORDER BY c.scope FOR UPDATE;
    PERFORM 1 FROM message_ratings m
      WHERE m.agent_id = v_agent::text OR m.message_id IN (
            SELECT x.message_id FROM chat_messages x JOIN chat_sessions s ON s.id = x.session_id
             WHERE s.agent_id = v_agent)
      ORDER BY m.id FOR UPDATE;
    PERFORM 1 FROM receipt_ratings r WHERE r.agent_id = v_agent ORDER BY r.id FOR UPDATE;
    SELECT array_agg(k.provider), array_agg(k.endpoint) INTO v_providers, v_endpoints
      FROM (SELECT r.provider, r.endpoint FROM receipt_ratings r WHERE r.agent_id = v_agent
             UNION
            SELECT m.provider, m.endpoint FROM message_ratings m
             WHERE m.agent_id = v_agent::text OR m.message_id IN (
                   SELECT x.message_id FROM chat_messages x JOIN chat_sessions s ON s.id = x.session_id
                    WHERE s.agent_id = v_agent)) k
     WHERE k.provider IS NOT NULL;
    PERFORM begin_rating(v_providers, v_endpoints);

    CREATE TEMPORARY TABLE alias ON COMMIT DROP AS
        SELECT DISTINCT kind, word, 'erased-' || left(encode(sha256(convert_to(v_salt || kind || word, 'UTF8')), 'hex'), 16) AS name
          FROM (SELECT 'session', session_id FROM payments WHERE agent_id = v_agent
          UNION SELECT 'session', session_id FROM budget_counters WHERE agent_id = v_agent
          UNION SELECT 'session', session_id FROM api_requests WHERE agent_id = v_agent
          UNION SELECT 'session', session_id FROM policy_decision_logs WHERE agent_id = v_agent
          UNION SELECT 'session', session_id FROM x402_traces WHERE agent_id = v_agent
          UNION SELECT 'trace', trace_id FROM payments WHERE agent_id = v_agent
          UNION SELECT 'trace', trace_id FROM api_requests WHERE agent_id = v_agent
          UNION SELECT 'trace', trace_id FROM policy_decision_logs WHERE agent_id = v_agent
          UNION SELECT 'trace', subject FROM budget_counters WHERE agent_id = v_agent AND kind = 'trace'
          UNION SELECT 'trace', trace_id FROM x402_traces WHERE agent_id = v_agent) w (kind, word)
         WHERE word IS NOT NULL AND word !~ '^erased-[0-9a-f]{16}$';
    CREATE TEMPORARY TABLE scope_alias ON COMMIT DROP AS
        SELECT session_scope(v_agent, word) AS scope, session_scope(v_agent, name) AS new, word, name
          FROM alias WHERE kind = 'session'
        UNION ALL
        SELECT trace_scope(v_agent, word), trace_scope(v_agent, name), word, name FROM alias WHERE kind = 'trace';
    -- Asked for each row that is renamed.
    CREATE INDEX ON alias (kind, word);
    CREATE INDEX ON scope_alias (scope);

    UPDATE budget_counters c
       SET scope = s.new,
           session_id = CASE c.kind WHEN 'session' THEN s.name ELSE c.session_id END,
           subject = CASE c.kind WHEN 'trace' THEN s.name ELSE c.subject END
      FROM scope_alias s WHERE c.scope = s.scope;
    UPDATE payments p
       SET session_id = (SELECT name FROM alias WHERE kind = 'session' AND word = p.session_id
                         UNION ALL SELECT p.session_id LIMIT 1),
           trace_id = (SELECT name FROM alias WHERE kind = 'trace' AND word = p.trace_id
                       UNION ALL SELECT p.trace_id LIMIT 1),
           scopes = ARRAY(SELECT coalesce((SELECT a.new FROM scope_alias a WHERE a.scope = o.scope), o.scope)
                            FROM unnest(p.scopes) WITH ORDINALITY o (scope, n) ORDER BY o.n),
           url_sealed = NULL, request_key = NULL, request_body_sha256 = NULL,
           idempotency_key = NULL, payment_header = NULL
     WHERE p.agent_id = v_agent;
    UPDATE x402_payment_logs l
       SET session_id = (SELECT name FROM alias WHERE kind = 'session' AND word = l.session_id
                         UNION ALL SELECT l.session_id LIMIT 1),
           trace_id = (SELECT name FROM alias WHERE kind = 'trace' AND word = l.trace_id
                       UNION ALL SELECT l.trace_id LIMIT 1)
     WHERE l.agent_id = v_agent AND (l.session_id IS NOT NULL OR l.trace_id IS NOT NULL);
    UPDATE policy_decision_logs d
       SET session_id = (SELECT name FROM alias WHERE kind = 'session' AND word = d.session_id
                         UNION ALL SELECT d.session_id LIMIT 1),
           trace_id = (SELECT name FROM alias WHERE kind = 'trace' AND word = d.trace_id
                       UNION ALL SELECT d.trace_id LIMIT 1),
           scope = coalesce((SELECT a.new FROM scope_alias a WHERE a.scope = d.scope), d.scope),
           detail = ''
     WHERE d.agent_id = v_agent;
    UPDATE api_requests r
       SET session_id = (SELECT name FROM alias WHERE kind = 'session' AND word = r.session_id
                         UNION ALL SELECT r.session_id LIMIT 1),
           trace_id = (SELECT name FROM alias WHERE kind = 'trace' AND word = r.trace_id
                       UNION ALL SELECT r.trace_id LIMIT 1),
           request_payload = NULL, response_headers = NULL, data_accessed = NULL
     WHERE r.agent_id = v_agent;
    UPDATE x402_traces t
       SET trace_id = coalesce((SELECT name FROM alias WHERE kind = 'trace' AND word = t.trace_id), t.trace_id),
           session_id = (SELECT name FROM alias WHERE kind = 'session' AND word = t.session_id
                         UNION ALL SELECT t.session_id LIMIT 1),
           user_prompt = NULL
     WHERE t.agent_id = v_agent;
    UPDATE x402_procurement_receipts r SET url = split_part(r.url, '?', 1),
           intent = split_part(r.intent, '?', 1) WHERE r.agent_id = v_agent;

    DELETE FROM message_ratings WHERE agent_id = v_agent::text OR message_id IN (
        SELECT m.message_id FROM chat_messages m JOIN chat_sessions s ON s.id = m.session_id
         WHERE s.agent_id = v_agent);
    DELETE FROM chat_sessions WHERE agent_id = v_agent;
    DELETE FROM kept_answers WHERE agent_id = v_agent;
    DELETE FROM certificate_rejections WHERE agent_id = v_agent;
    DELETE FROM agent_tokens WHERE agent_id = v_agent;
    INSERT INTO agent_keys AS k (agent_id, sealed_key, destroyed_at) VALUES (v_agent, NULL, now())
    ON CONFLICT (agent_id) DO UPDATE SET sealed_key = NULL, destroyed_at = now()
     WHERE k.destroyed_at IS NULL;
    UPDATE agent_policies
       SET frozen = true, allowed_endpoints = '{}', allowed_targets = '{}', updated_by = p_by
     WHERE agent_id = v_agent;
    UPDATE agents
       SET name = v_alias, is_active = false, erased_at = coalesce(erased_at, now()),
           capture_chat = false, session_token_hash = NULL
     WHERE id = v_agent;
    PERFORM set_config('autopay.erasing', 'off', true);
    DROP TABLE alias, scope_alias;
    RETURN v_alias;
END $$;

SELECT open_table('rating_words', '{}');
SELECT open_table('provider_thumbs', '{}');
REVOKE ALL ON rating_words, provider_thumbs FROM PUBLIC;
REVOKE ALL ON FUNCTION agent_key(uuid), hold_agents(uuid[]), skip_if_erased(), lock_traces(text[]),
    word_weight(interval, double precision), faded_thumbs(double precision, interval),
    begin_rating(text[], text[]), note_ratings() FROM PUBLIC;
