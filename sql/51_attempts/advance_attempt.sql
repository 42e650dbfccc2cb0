-- Providers repeat themselves and their notifications overtake each other: the word of an attempt only advances, so a
-- "processing" that arrives after "failed" changes nothing.
create function payments.advance_attempt(p_number bigint, p_outcome payments.outcome)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update payments.attempts as a
    set status = p_outcome.status,
        error_code = left(p_outcome.error_code, 255),
        error_message = left(p_outcome.error_message, 500)
    where a.number = p_number
        and (a.status = 'open' or (a.status = 'processing' and p_outcome.status <> 'processing'));
    return found;
end;
$$;

comment on function payments.advance_attempt(bigint, payments.outcome) is
'Notes what the provider says of an attempt; false when it had said as much or more before.';

revoke all on function payments.advance_attempt(bigint, payments.outcome)
from public, anon, authenticated, service_role;
