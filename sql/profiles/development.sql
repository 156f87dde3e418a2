-- For a machine on which nothing is worth keeping from anybody: the tables of chats, ratings, logs,
-- traces and policies lie open to every role, as in the design that they come from. Never where real
-- money is spent: whoever can log in reads every chat and writes himself any policy.
--
-- Rows are opened by row security, which is not enough by itself: rights are given to the role
-- autopay_developer (GRANT autopay_developer TO my_login). The books stay final even so: their
-- triggers know no profile. Taken back by sql/profiles/production.sql. May be run again.

DO $$
DECLARE
    v_table text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'autopay_developer') THEN
        BEGIN
            CREATE ROLE autopay_developer NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    GRANT USAGE ON SCHEMA public TO autopay_developer;
    -- x402_session_spend is a view: it shows what budget_counters lets through.
    FOREACH v_table IN ARRAY ARRAY[
        'chat_sessions', 'chat_messages', 'query_logs', 'x402_payment_logs', 'x402_traces',
        'x402_trace_steps', 'x402_procurement_provider_stats', 'x402_procurement_receipts',
        'message_ratings', 'agent_policies', 'policy_decision_logs'] LOOP
        EXECUTE format('DROP POLICY IF EXISTS "Allow all operations" ON %I', v_table);
        EXECUTE format('CREATE POLICY "Allow all operations" ON %I FOR ALL USING (true) WITH CHECK (true)', v_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO autopay_developer', v_table);
    END LOOP;
END $$;
