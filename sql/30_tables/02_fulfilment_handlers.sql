-- Function names are text, not regprocedure: a reg* column would block pg_upgrade of the host project.
create table payments.fulfilment_handlers (
    kind text primary key,
    fulfil_function text not null,
    reverse_function text,
    check_function text,
    constraint fulfilment_handlers_function_is_a_qualified_name
    check (fulfil_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$'),
    constraint fulfilment_handlers_reverse_is_a_qualified_name
    check (reverse_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$'),
    constraint fulfilment_handlers_check_is_a_qualified_name
    check (check_function ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$')
);

comment on table payments.fulfilment_handlers is
'How each kind of product is given to its buyer and taken back. A new kind is a function pair and one row.';
comment on column payments.fulfilment_handlers.fulfil_function is
'Function (public.payment_checkout_sessions) returns jsonb that grants the purchase; it raises when it cannot.';
comment on column payments.fulfilment_handlers.reverse_function is
'Function (public.payment_checkout_sessions, share numeric) returns jsonb that leaves the buyer without this share of '
'the purchase in all: 0 restores everything, 1 takes everything. Called again with the same share it changes nothing. '
'Without one, a refund is left for review.';
comment on column payments.fulfilment_handlers.check_function is
'Function (public.payment_checkout_sessions) returns void that raises when a purchase could not be fulfilled, before '
'the buyer pays. It sees a session that is not stored yet and writes nothing.';

alter table payments.fulfilment_handlers enable row level security;
revoke all on table payments.fulfilment_handlers from public, anon, authenticated, service_role;
