create type payments.move as (
    to_status text,
    source text,
    reason text,
    error_code text,
    error_message text
);

comment on type payments.move is 'A wanted change of a session''s status, with what the audit trail needs to know.';
