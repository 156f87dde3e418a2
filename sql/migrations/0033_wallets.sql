-- Several wallets: which of them pays for an agent is its policy's to say.

INSERT INTO error_classifications VALUES
    ('wallet_not_configured', 'funds', 'ours', false, false, 'the policy names a wallet that this proxy has not got')
ON CONFLICT (code) DO NOTHING;

-- Keeps agents.wallet_address true: the wallet that its own layer names, or else the defaults; "default"
-- where neither does. (A provider's layer may name another for what is bought there.) `p_wallets` is
-- name → address of those that one proxy has. Agents of whose wallet it knows nothing are left alone, and
-- so are those that the default wallet of another proxy pays for. Returns how many have another one now.
CREATE OR REPLACE FUNCTION assign_wallets(p_wallets jsonb) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH named AS (
        SELECT a.id, coalesce(own.rules ->> 'wallet', defaults.rules ->> 'wallet', 'default') AS wallet
          FROM agents a
          LEFT JOIN policy_rules own ON own.agent_id = a.id AND own.provider IS NULL
          LEFT JOIN policy_rules defaults ON defaults.agent_id IS NULL AND defaults.provider IS NULL
         WHERE a.is_active
    ), assigned AS (
        UPDATE agents a SET wallet_address = p_wallets ->> n.wallet
          FROM named n
         WHERE n.id = a.id AND a.wallet_address <> p_wallets ->> n.wallet
           AND (n.wallet <> 'default' OR a.wallet_address = '11111111111111111111111111111111'
                OR a.wallet_address IN (SELECT w.value FROM jsonb_each_text(p_wallets) w))
        RETURNING 1)
    SELECT count(*)::integer FROM assigned
$$;

REVOKE ALL ON FUNCTION assign_wallets(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION assign_wallets(jsonb) TO autopay_writer, autopay_admin;
