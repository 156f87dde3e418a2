-- What became of payments whose answer was lost, or is not believed yet: what was seen of the chain,
-- and the moves of money that follow from it. Written by the reconciler, from proofs only.

-- Every transaction of a token account that payments left from, read in full, each once. Working
-- papers: rows that no open payment needs any more are removed.
CREATE TABLE IF NOT EXISTS chain_seen (
    network          text NOT NULL,
    source_account   text NOT NULL,
    signature        text NOT NULL,
    slot             bigint NOT NULL CHECK (slot >= 0),
    commitment       text NOT NULL CHECK (commitment IN ('confirmed', 'finalized')),
    err              text,
    client_signature text NOT NULL,
    memo             text,
    change_atomic    numeric(21, 0) NOT NULL,
    left_atomic      numeric(20, 0) NOT NULL CHECK (left_atomic >= 0),
    fee_lamports     numeric(20, 0) NOT NULL CHECK (fee_lamports >= 0),
    seen_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, source_account, signature)
);
COMMENT ON COLUMN chain_seen.change_atomic IS 'what it added to the account; negative where it took';
COMMENT ON COLUMN chain_seen.client_signature IS 'its second signature: says whose payment it is';
CREATE INDEX IF NOT EXISTS idx_chain_seen_slot ON chain_seen (network, source_account, slot);

-- What the account held at the end of a finalized slot. The changes since must explain what it
-- holds now, or the node's index has left something out.
CREATE TABLE IF NOT EXISTS chain_balances (
    network        text NOT NULL,
    source_account text NOT NULL,
    slot           bigint NOT NULL CHECK (slot >= 0),
    amount_atomic  numeric(20, 0) NOT NULL CHECK (amount_atomic >= 0),
    seen_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, source_account, slot)
);

-- How far the chain was read, and by whom; one row per token account.
CREATE TABLE IF NOT EXISTS chain_rounds (
    network          text NOT NULL,
    source_account   text NOT NULL,
    leader           text NOT NULL,
    finalized_height bigint,
    finalized_slot   bigint,
    trouble          text,
    finished_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, source_account)
);
COMMENT ON COLUMN chain_rounds.trouble IS 'why the last round could not be finished; null if it was';

-- Why the fate of a payment that can no longer land is not known yet.
CREATE TABLE IF NOT EXISTS chain_doubts (
    payment_id   uuid PRIMARY KEY REFERENCES payments (id) ON DELETE RESTRICT,
    why          text NOT NULL,
    detail       text NOT NULL DEFAULT '',
    absent_since bigint CHECK (absent_since >= 0),
    alarmed      text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN chain_doubts.absent_since IS
    'the finalized height of the first good scan without it; a lone RPC must say it again later';
COMMENT ON COLUMN chain_doubts.alarmed IS 'of what the operator was told already';

CREATE INDEX IF NOT EXISTS idx_payments_unproved ON payments (network, source_account, created_at)
    WHERE status IN ('SIGNED', 'CONFIRMED');

-- Adds the row of a transaction at one level, once. `p_seen`: {signature, slot, memo, change_atomic,
-- fee_lamports, …} as it is in chain_seen.
CREATE OR REPLACE FUNCTION note_transaction(
    p_payment payments, p_status confirmation_status, p_seen jsonb, p_error text
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM transaction_logs t
         WHERE t.payment_id = p_payment.id AND t.confirmation_status = p_status
           AND t.solana_tx_metadata ->> 'signature' = p_seen ->> 'signature') THEN
        RETURN;
    END IF;
    INSERT INTO transaction_logs (
        agent_id, payment_id, solana_tx_metadata, confirmation_status, gas_fees, is_duplicate, error_message)
    SELECT p_payment.agent_id, p_payment.id,
           p_seen || jsonb_build_object('network', p_payment.network, 'source_account', p_payment.source_account),
           p_status, CASE WHEN p_seen ? 'fee_lamports' THEN  -- as far as the column holds
                         least((p_seen ->> 'fee_lamports')::numeric, 999999999) END,
           -- the same payment in another transaction, or the transaction of another payment
           EXISTS (SELECT 1 FROM transaction_logs t
                    WHERE t.payment_id = p_payment.id
                      AND t.solana_tx_metadata ->> 'signature' <> p_seen ->> 'signature')
           OR EXISTS (SELECT 1 FROM payments o
                       WHERE o.payment_hash = p_seen ->> 'signature' AND o.id <> p_payment.id),
           p_error;
END $$;

-- SIGNED → CONFIRMED by what the chain shows: the receipt is written anew, with source 'chain'.
-- 'settled'; 'already' if it was; else what `settle` says.
CREATE OR REPLACE FUNCTION confirm_from_chain(p_id uuid, p_seen jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_payment payments;
    v_result  text;
BEGIN
    PERFORM hold_policies();
    PERFORM claim_transaction(p_id, p_seen ->> 'signature');
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id;
    IF NOT FOUND THEN
        RETURN 'absent';
    END IF;
    PERFORM set_config('autopay.reason', 'chain_confirmed', true);
    v_result := settle(jsonb_build_object(
        'payment_id', p_id, 'source', 'chain', 'claimed', false, 'success', false,
        'transaction', p_seen ->> 'signature', 'payer', v_payment.payer, 'network', v_payment.network,
        'amount', v_payment.amount_atomic::text, 'http_status', v_payment.doubt_http_status,
        'latency_ms', 0, 'error', 'the answer was lost; found on the chain'));
    PERFORM set_config('autopay.reason', '', true);
    IF v_result IN ('settled', 'already') THEN
        PERFORM note_transaction(v_payment, 'CONFIRMED', p_seen, NULL);
    END IF;
    RETURN v_result;
END $$;

-- CONFIRMED → VERIFIED: finalized, and matched by our signature. A payment that is still SIGNED is
-- booked first. 'verified'; 'already'; else why not.
CREATE OR REPLACE FUNCTION verify_payment(p_id uuid, p_seen jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_payment payments;
    v_result  text;
    v_named   text;
BEGIN
    PERFORM hold_policies();
    v_result := confirm_from_chain(p_id, p_seen);
    IF v_result NOT IN ('settled', 'already') THEN
        RETURN v_result;
    END IF;
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF v_payment.status <> 'CONFIRMED' THEN
        RETURN 'already';
    END IF;
    UPDATE payments p SET status = 'VERIFIED', payment_hash = p_seen ->> 'signature' WHERE p.id = p_id;
    PERFORM note_transaction(v_payment, 'FINALIZED', p_seen, NULL);
    DELETE FROM chain_doubts d WHERE d.payment_id = p_id;
    SELECT l.settle_tx_hash INTO v_named FROM x402_payment_logs l WHERE l.id = p_id AND l.claimed;
    IF v_named <> p_seen ->> 'signature' THEN
        PERFORM note_event(v_payment.agent_id, 'PAYMENT_STATUS', p_id, jsonb_build_object(
            'code', 'other_transaction_claimed', 'provider', v_payment.provider,
            'claimed', v_named, 'transaction', p_seen ->> 'signature'), 'WARNING');
    END IF;
    RETURN 'verified';
END $$;

-- Locks the payment, and takes its transaction from a payment whose provider named it wrongly. In
-- the order of their ids, so that two that were named crosswise cannot wait for each other.
CREATE OR REPLACE FUNCTION claim_transaction(p_id uuid, p_signature text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
BEGIN
    PERFORM lock_payment_id(p_id);
    PERFORM 1 FROM payments p WHERE p.id = p_id OR p.payment_hash = p_signature ORDER BY p.id FOR UPDATE;
    UPDATE payments p SET payment_hash = NULL WHERE p.payment_hash = p_signature AND p.id <> p_id;
END $$;

-- → FAILED, for a payment that the chain proves dead: what was held or spent is free again. A
-- provider that had claimed its transaction is exposed, in an alarm. `p_seen`: the transaction that
-- it failed in, or null. 'released' (was SIGNED), 'reversed' (was CONFIRMED), 'already', 'verified'
-- (refused: that is final), 'absent'.
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

-- Takes a payment's price out of "spent" of all its counters, back to the budgets.
CREATE OR REPLACE FUNCTION move_spent_back(p_payment payments) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_moved integer;
BEGIN
    PERFORM 1 FROM budget_counters c WHERE c.scope = ANY (p_payment.scopes) ORDER BY c.scope FOR UPDATE;
    UPDATE budget_counters c
       SET spent_micros = c.spent_micros - p_payment.price_micros, paid_calls = c.paid_calls - 1,
           updated_at = now()
     WHERE c.scope = ANY (p_payment.scopes);
    GET DIAGNOSTICS v_moved = ROW_COUNT;
    IF v_moved <> cardinality(p_payment.scopes) THEN
        RAISE EXCEPTION 'payment %: % of its % counters exist',
            p_payment.id, v_moved, cardinality(p_payment.scopes);
    END IF;
END $$;

-- Notes why the fate of a payment is not known. The operator is told of each kind of trouble once.
CREATE OR REPLACE FUNCTION note_chain_doubt(
    p_id uuid, p_why text, p_detail text, p_absent_since bigint, p_type audit_event_type,
    p_severity audit_severity
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_payment payments;
BEGIN
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id AND p.status IN ('SIGNED', 'CONFIRMED');
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO chain_doubts AS d (payment_id, why, detail, absent_since)
    VALUES (p_id, p_why, p_detail, p_absent_since)
    ON CONFLICT (payment_id) DO UPDATE SET
        why = excluded.why, detail = excluded.detail, absent_since = excluded.absent_since,
        updated_at = now();
    IF p_type IS NOT NULL THEN
        UPDATE chain_doubts d SET alarmed = d.alarmed || p_why
         WHERE d.payment_id = p_id AND p_why <> ALL (d.alarmed);
        IF FOUND THEN
            PERFORM note_event(v_payment.agent_id, p_type, p_id, jsonb_build_object(
                'code', p_why, 'detail', p_detail, 'provider', v_payment.provider,
                'price_micros', v_payment.price_micros), p_severity);
        END IF;
    END IF;
END $$;

-- The working papers are the reconciler's; why money is still held is for everyone to see.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['chain_seen', 'chain_balances', 'chain_rounds', 'chain_doubts'] LOOP
        PERFORM open_table(v_table::regclass,
            ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
    END LOOP;
END $$;
GRANT SELECT ON chain_seen, chain_balances, chain_rounds, chain_doubts
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT INSERT, UPDATE, DELETE ON chain_seen, chain_balances, chain_rounds TO autopay_writer;
GRANT EXECUTE ON FUNCTION confirm_from_chain(uuid, jsonb), verify_payment(uuid, jsonb),
    disprove(uuid, text, jsonb), note_chain_doubt(uuid, text, text, bigint, audit_event_type, audit_severity)
    TO autopay_writer;
