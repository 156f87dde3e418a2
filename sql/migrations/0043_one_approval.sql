-- As in 0030, but that the approval is looked for once: of several good ones for the same request one
-- is used up, and the others stay.
CREATE OR REPLACE FUNCTION policy_gate_taken(q reservation_request, p_rules jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    a      approvals;
    v_good uuid;
BEGIN
    IF p_rules ->> 'pinning' = 'first_use' THEN
        INSERT INTO pay_to_pins AS p (provider, network, pay_to, accepted, agent_id, updated_by)
        VALUES (plain_origin(q.provider), q.network, q.pay_to, true, q.agent_id, 'first use')
        ON CONFLICT (provider, network, pay_to) DO UPDATE
           SET accepted = true, updated_by = 'first use', updated_at = now() WHERE NOT p.accepted;
    END IF;
    IF (p_rules ->> 'approval')::boolean THEN
        v_good := good_approval(q);
        UPDATE approvals x SET state = 'used', payment_id = q.payment_id WHERE x.id = v_good RETURNING * INTO a;
        IF NOT FOUND THEN  -- the gate has locked it in this transaction
            RAISE EXCEPTION 'payment % has no approval', q.payment_id;
        END IF;
        PERFORM note_approval(a, 'PAYMENT_STATUS', 'approval_used', jsonb_build_object('payment', q.payment_id));
    END IF;
END $$;
