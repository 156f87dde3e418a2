-- Programs that do not accept autopay's certificate for a host: their connections there are not looked
-- into, and so not paid for, until the moment given. For the operator to see.

CREATE TABLE certificate_rejections (
    agent_id   uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    host       text NOT NULL,
    reason     text NOT NULL,
    times      bigint NOT NULL DEFAULT 1 CHECK (times >= 1),
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    left_until timestamptz NOT NULL,
    PRIMARY KEY (agent_id, host)
);
COMMENT ON COLUMN certificate_rejections.times IS 'how often a proxy began to leave the host alone';
CREATE INDEX idx_certificate_rejections_until ON certificate_rejections (left_until DESC);
