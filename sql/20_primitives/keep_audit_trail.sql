create function payments.keep_audit_trail()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from removed as r
        cross join payments.settings as s
        where r.created_at >= now() - s.audit_retention
    ) then
        raise exception 'Only history older than settings.audit_retention can be deleted.'
            using errcode = 'PT409', detail = 'append_only', hint = 'Write a new row that corrects the old one.';
    end if;
    return null;
end;
$$;

comment on function payments.keep_audit_trail() is
'Statement trigger after delete, with the table removed. Raises PT409 append_only.';

revoke all on function payments.keep_audit_trail() from public, anon, authenticated, service_role;
