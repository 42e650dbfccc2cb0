-- The engine's own schema. PostgREST must never expose it: clients reach it only through the functions of `public`.
create schema payments;

comment on schema payments is
'pgcheckout engine: internal tables and functions. Never expose this schema through the API.';

revoke all on schema payments from public, anon, authenticated, service_role;
grant usage on schema payments to authenticated, service_role;
