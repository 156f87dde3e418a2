-- Forgetting an agent. Its money stays in the books, exact to the cent; who it was does not: names,
-- tokens, chats and payloads are destroyed, session and trace ids become pseudonyms that nobody can
-- turn back, and its data key goes, so that what was sealed under it is noise, here and in every
-- backup that lacks the proxy's own key.

-- Evidence never changes, but for what an erased agent called its sessions and traces, and for budgets
-- that begin to count a payment that is open, or may be reversed (0029): they come behind the others.
CREATE OR REPLACE FUNCTION guard_payment() RETURNS trigger LANGUAGE plpgsql AS $$
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
    -- What was never signed can't be dead on a chain; what may have left was not "never sent".
    IF NEW.status = 'FAILED' AND OLD.status <> 'FAILED' AND (
        OLD.status = 'INITIATED' AND NEW.release_reason = 'proved_dead'
        OR (OLD.status = 'CONFIRMED' OR OLD.in_doubt_since IS NOT NULL) AND NEW.release_reason = 'never_sent'
    ) THEN
        RAISE EXCEPTION 'payment % cannot go from % to %: %', NEW.id, OLD.status, NEW.status, NEW.release_reason
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_transition';
    END IF;
    -- What was decided on and signed is evidence: it never changes again.
    IF (NEW.id, NEW.agent_id, NEW.amount_atomic, NEW.price_micros, NEW.day,
        NEW.network, NEW.asset, NEW.pay_to, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.agent_id, OLD.amount_atomic, OLD.price_micros, OLD.day,
        OLD.network, OLD.asset, OLD.pay_to, OLD.created_at)
       OR NEW.scopes <> OLD.scopes AND NOT (
           current_setting('autopay.erasing', true) IS NOT DISTINCT FROM 'on'
           AND cardinality(NEW.scopes) = cardinality(OLD.scopes)
           OR current_setting('autopay.counting', true) IS NOT DISTINCT FROM 'on'
           AND NEW.status <> 'FAILED' AND NEW.scopes[:cardinality(OLD.scopes)] = OLD.scopes)
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

-- Erases one agent; the same again changes nothing. Returns its pseudonym, or NULL if there is none
-- of that name.
CREATE OR REPLACE FUNCTION erase_agent(p_name text, p_by text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_agent uuid;
    v_alias text;
    -- Lives as long as this call: without it, no pseudonym leads back.
    v_salt  text := gen_random_uuid()::text || gen_random_uuid()::text;
BEGIN
    SELECT a.id INTO v_agent FROM agents a
     WHERE a.name = p_name AND a.id <> '00000000-0000-0000-0000-000000000000' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    v_alias := 'erased-' || left(encode(sha256(convert_to(v_salt, 'UTF8')), 'hex'), 12);
    PERFORM set_config('autopay.erasing', 'on', true);

    -- The counters first, locked in their order, so that nothing is reserved meanwhile.
    PERFORM 1 FROM budget_counters c WHERE c.agent_id = v_agent ORDER BY c.scope FOR UPDATE;
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
