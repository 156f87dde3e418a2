-- Where an agent may be taken. Of every connection, paid or not: the proxy reads these from its
-- directory; the functions of 0004 decide about money and do not know them.
ALTER TABLE agent_policies
    ADD COLUMN allowed_targets text[] NOT NULL DEFAULT '{}',
    ADD COLUMN allowed_ports integer[] NOT NULL DEFAULT '{}'
        CHECK (1 <= ALL (allowed_ports) AND 65535 >= ALL (allowed_ports));
COMMENT ON COLUMN agent_policies.allowed_targets IS
    'addresses and networks that are not public and may be reached all the same, with a port or any';
COMMENT ON COLUMN agent_policies.allowed_ports IS
    'ports that may be reached on public addresses; empty: the default set of proxy/wire/egress.py';
