create type payments.grant_result as (
    fulfilment_status text,
    fulfilment jsonb,
    error_code text,
    error_message text,
    detail text
);

comment on type payments.grant_result is 'How giving the buyer what was paid for went: fulfilled or failed, and why.';
