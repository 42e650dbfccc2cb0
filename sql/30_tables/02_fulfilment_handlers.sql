-- Function names are text, not regprocedure: a reg* column would block pg_upgrade of the host project.
create table payments.fulfilment_handlers (
    kind text primary key,
    fulfil_function text not null,
    constraint fulfilment_handlers_function_is_a_qualified_name
    check (fulfil_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$')
);

comment on table payments.fulfilment_handlers is
'How each kind of product is given to its buyer. A new kind is one function and one row.';
comment on column payments.fulfilment_handlers.fulfil_function is
'Function (public.payment_checkout_sessions) returns jsonb that grants the purchase; it raises when it cannot.';

alter table payments.fulfilment_handlers enable row level security;
revoke all on table payments.fulfilment_handlers from public, anon, authenticated, service_role;
