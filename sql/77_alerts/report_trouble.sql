-- Bridges add up what they see and call this with a sum, twice a minute at most: nobody can make us write at his rate.
create function public.report_trouble(p_kind text, p_subject text, p_count int)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if coalesce(p_kind, '') not in ('failed_verifications', 'signature_failures')
        or coalesce(p_subject, '') !~ '^[a-z][a-z0-9_-]{0,62}$'
        or coalesce(p_count, 0) < 1
    then
        raise exception 'The report is not valid.'
            using errcode = 'PT422', detail = 'invalid_input',
            hint = 'p_kind: failed_verifications or signature_failures; p_subject: a provider; p_count: 1 or more.';
    end if;
    insert into payments.troubles as t (kind, subject, minute, times)
    values (p_kind, p_subject, date_trunc('minute', now()), p_count)
    on conflict (kind, subject, minute) do update set times = t.times + excluded.times;
end;
$$;

comment on function public.report_trouble(text, text, int) is
'Adds to what bridges could not do in this minute: believe notifications of a provider (signature_failures), or ask it '
'(failed_verifications). watch_payments opens an alert above a rate. Raises PT422 invalid_input.';

revoke all on function public.report_trouble(text, text, int) from public, anon, authenticated, service_role;
grant execute on function public.report_trouble(text, text, int) to service_role;
