-- Who may do what, enforced by the database. Four roles that nobody logs in as: a login is granted one
-- (GRANT autopay_writer TO my_login) and acts as it.
--
--   autopay_writer    the running proxy: calls the functions that move money, writes what it sees
--   autopay_reader    a user of the results: the books, and the chats and ratings of his own wallet
--   autopay_auditor   the books and the events, and nothing private
--   autopay_admin     the operator: agents, tokens, policies, limits; never the books
--
-- None of them owns anything, none can change a counter, a payment or a receipt but through the
-- functions, which run with their owner's rights.

-- Roles belong to the whole server, where another database may have made them, this very moment too.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'the role % is missing and this login may not make it', v_role
                    USING HINT = format('as a superuser: CREATE ROLE %I NOLOGIN', v_role);
            END;
        END IF;
        -- Whoever migrates may act as any of them. From PostgreSQL 16 on, whoever makes a role may
        -- give it to others, but may not act as it before it was given to him.
        BEGIN
            EXECUTE format('GRANT %I TO CURRENT_USER', v_role);
        EXCEPTION WHEN insufficient_privilege THEN
            -- Somebody else made it, and has given it to this login, or will have to.
            RAISE NOTICE 'as the owner of the role: GRANT % TO %', v_role, current_user;
        END;
    END LOOP;
END $$;

-- What nobody was given, nobody has: neither now nor in what later migrations add.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Rows: every table is closed, and opened to those who have a grant on it. `p_rows` is for the tables
-- whose rows are somebody's own.
CREATE OR REPLACE FUNCTION open_table(p_table regclass, p_roles text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_role text;
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', p_table);
    FOREACH v_role IN ARRAY p_roles LOOP
        EXECUTE format('DROP POLICY IF EXISTS %I ON %s', v_role || '_rows', p_table);
        EXECUTE format('CREATE POLICY %I ON %s TO %I USING (true) WITH CHECK (true)',
                       v_role || '_rows', p_table, v_role);
    END LOOP;
END $$;

DO $$
DECLARE
    v_table text;
BEGIN
    -- the books and the logs: all may read, nobody writes but through the functions
    FOREACH v_table IN ARRAY ARRAY[
        'payments', 'x402_payment_logs', 'x402_procurement_receipts', 'budget_counters',
        'policy_decision_logs', 'transaction_logs', 'audit_events', 'query_logs', 'retry_attempts',
        'x402_traces', 'x402_trace_steps', 'x402_procurement_provider_stats', 'error_classifications',
        'wallet_balances', 'agents', 'agent_policies', 'spend_limits', 'certificate_rejections',
        'schema_migrations'] LOOP
        PERFORM open_table(v_table::regclass,
            ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
    END LOOP;
    -- private, or nobody's business
    FOREACH v_table IN ARRAY ARRAY['agent_tokens', 'agent_keys', 'api_keys', 'abandoned_reservations'] LOOP
        PERFORM open_table(v_table::regclass, ARRAY['autopay_writer', 'autopay_admin']);
    END LOOP;
    PERFORM open_table('api_requests', ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
    FOREACH v_table IN ARRAY ARRAY['chat_sessions', 'chat_messages', 'message_ratings'] LOOP
        PERFORM open_table(v_table::regclass, ARRAY['autopay_writer', 'autopay_admin']);
    END LOOP;
END $$;

GRANT SELECT ON payments, x402_payment_logs, x402_procurement_receipts, budget_counters, policy_decision_logs,
    transaction_logs, audit_events, query_logs, retry_attempts, x402_traces, x402_trace_steps,
    x402_procurement_provider_stats, error_classifications, wallet_balances, agents, agent_policies,
    spend_limits, certificate_rejections, schema_migrations, x402_session_spend
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
ALTER VIEW x402_session_spend SET (security_invoker = true);
-- what an auditor has no need to see is left out, column by column
GRANT SELECT (id, agent_id, session_id, trace_id, provider, method, endpoint, api_type, http_status,
              x402_instructions, status, error_class, created_at, updated_at)
    ON api_requests TO autopay_auditor;
REVOKE SELECT ON x402_traces FROM autopay_auditor;
GRANT SELECT (agent_id, trace_id, session_id, budget_limit_micros, spent_start_micros, spent_end_micros,
              remaining_end_micros, steps, budget_limit_usd, spent_usd_start, spent_usd_end,
              remaining_usd_end, created_at, updated_at)
    ON x402_traces TO autopay_auditor;
REVOKE SELECT ON agents FROM autopay_reader, autopay_auditor;
GRANT SELECT (id, name, autonomy_level, wallet_address, is_active, capture_chat, erased_at, created_at, updated_at)
    ON agents TO autopay_reader, autopay_auditor;

-- the running proxy
GRANT SELECT ON api_requests, agent_tokens, agent_keys, api_keys TO autopay_writer;
GRANT INSERT, UPDATE ON x402_procurement_provider_stats, certificate_rejections TO autopay_writer;
GRANT UPDATE (request_payload, data_accessed) ON api_requests TO autopay_writer;
GRANT UPDATE (user_prompt) ON x402_traces TO autopay_writer;
GRANT INSERT ON transaction_logs TO autopay_writer;
GRANT INSERT, UPDATE (sealed_key, destroyed_at) ON agent_keys TO autopay_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON chat_sessions, chat_messages, message_ratings TO autopay_writer;

-- the operator
GRANT SELECT, INSERT, UPDATE ON agents, agent_policies, agent_tokens, agent_keys, api_keys TO autopay_admin;
GRANT SELECT, INSERT, UPDATE, DELETE ON spend_limits, chat_sessions, chat_messages, message_ratings TO autopay_admin;
GRANT INSERT, UPDATE ON certificate_rejections, x402_procurement_provider_stats TO autopay_admin;
GRANT SELECT ON api_requests, abandoned_reservations TO autopay_admin;

-- the user of the results: his own chats, and ratings of his own messages by himself
GRANT SELECT ON api_requests, chat_sessions, chat_messages TO autopay_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON message_ratings TO autopay_reader;
DROP POLICY IF EXISTS own_wallet ON chat_sessions;
CREATE POLICY own_wallet ON chat_sessions FOR SELECT TO autopay_reader
    USING (wallet_address = current_setting('autopay.wallet', true));
DROP POLICY IF EXISTS own_session ON chat_messages;
CREATE POLICY own_session ON chat_messages FOR SELECT TO autopay_reader
    USING (EXISTS (SELECT 1 FROM chat_sessions s WHERE s.id = session_id));
DROP POLICY IF EXISTS own_rating ON message_ratings;
CREATE POLICY own_rating ON message_ratings TO autopay_reader
    USING (user_address = current_setting('autopay.wallet', true))
    WITH CHECK (user_address = current_setting('autopay.wallet', true)
                AND EXISTS (SELECT 1 FROM chat_messages m WHERE m.message_id = message_ratings.message_id));

-- The functions. Those that only compute are everybody's; those that move money are the proxy's.
GRANT EXECUTE ON FUNCTION agent_day_scope(uuid, date), session_scope(uuid, text), trace_scope(uuid, text),
    utc_midnight_after(date), hex_sha256(text), jsonb_or_null(text), budget_denial(budget_kind),
    spend_limit(budget_kind, uuid, text), is_sealed(bytea, integer)
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT EXECUTE ON FUNCTION reserve(jsonb), settle(jsonb), release(uuid, text), doubt(uuid, text, text, integer),
    deliver(jsonb), note_denial(jsonb), note_retry(jsonb), tick(jsonb),
    note_event(uuid, audit_event_type, uuid, jsonb, audit_severity),
    note_balance(text, text, numeric, numeric, numeric), adopt_wallet(text), ensure_partitions(integer, date)
    TO autopay_writer, autopay_admin;
GRANT EXECUTE ON FUNCTION erase_agent(text, text) TO autopay_admin;

-- A session's own limit is set by whoever starts it, and can only be lowered beneath the policy's.
CREATE OR REPLACE FUNCTION limit_session(p_agent_id uuid, p_session_id text, p_limit_micros bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO budget_counters (scope, kind, agent_id, session_id, limit_micros)
    VALUES (session_scope(p_agent_id, p_session_id), 'session', p_agent_id, p_session_id, p_limit_micros)
    ON CONFLICT (scope) DO UPDATE SET limit_micros = excluded.limit_micros
$$;
GRANT EXECUTE ON FUNCTION limit_session(uuid, text, bigint) TO autopay_writer, autopay_admin;

-- The questions that operators ask again and again.
CREATE OR REPLACE VIEW v_payments_usd WITH (security_invoker = true) AS
    SELECT p.id, a.name AS agent, p.provider, p.method, p.endpoint, p.status, p.amount, p.symbol, p.network,
           (p.price_micros * 0.000001)::numeric(18, 6) AS price_usd, p.payment_hash, p.session_id,
           p.trace_id, p.created_at, p.settled_at
      FROM payments p JOIN agents a ON a.id = p.agent_id;
CREATE OR REPLACE VIEW v_daily_spend WITH (security_invoker = true) AS
    SELECT c.day, c.kind, a.name AS agent, c.subject AS provider,
           (c.spent_micros * 0.000001)::numeric(18, 6) AS spent_usd,
           (c.held_micros * 0.000001)::numeric(18, 6) AS held_usd, c.paid_calls
      FROM budget_counters c LEFT JOIN agents a ON a.id = c.agent_id WHERE c.day IS NOT NULL;
CREATE OR REPLACE VIEW v_in_doubt WITH (security_invoker = true) AS
    SELECT p.id, a.name AS agent, p.provider, p.endpoint, (p.price_micros * 0.000001)::numeric(18, 6) AS held_usd,
           p.doubt_reason, p.in_doubt_since, p.last_valid_block_height, p.created_at
      FROM payments p JOIN agents a ON a.id = p.agent_id WHERE p.status IN ('INITIATED', 'SIGNED');
CREATE OR REPLACE VIEW v_policy_effective WITH (security_invoker = true) AS
    SELECT a.name AS agent, x.frozen, x.per_call_limit_usd, x.daily_limit_usd, x.session_limit_usd,
           x.trace_limit_usd,
           (spend_limit('fleet_day', NULL, '*') * 0.000001)::numeric(18, 6) AS fleet_limit_usd,
           (spend_limit('wallet_day', NULL, a.wallet_address) * 0.000001)::numeric(18, 6) AS wallet_limit_usd,
           x.version, x.updated_by, x.updated_at
      FROM agents a JOIN agent_policies x ON x.agent_id = a.id WHERE a.is_active;
GRANT SELECT ON v_payments_usd, v_daily_spend, v_in_doubt, v_policy_effective
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
