create function payments.forbid_change()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% on %.% is forbidden: its rows are history.', tg_op, tg_table_schema, tg_table_name
        using errcode = 'PT409', detail = 'append_only', hint = 'Write a new row that corrects the old one.';
end;
$$;

comment on function payments.forbid_change() is 'Statement trigger of append-only tables. Raises PT409 append_only.';

revoke all on function payments.forbid_change() from public, anon, authenticated, service_role;
