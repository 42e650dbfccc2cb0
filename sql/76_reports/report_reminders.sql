-- Like is compared with like: sessions still unpaid when the first reminder was due, with and without one.
create function payments.report_reminders(p_from timestamptz)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_with numeric;
    v_without numeric;
    v_reminded bigint;
begin
    select
        count(*) filter (where s.reminded),
        avg((s.minutes_to_pay is not null)::int) filter (where s.reminded),
        avg((s.minutes_to_pay is not null)::int) filter (where not s.reminded)
    into v_reminded, v_with, v_without
    from payments.report_sessions(p_from) as s
    where s.was_slow;
    return jsonb_build_object(
        'reminded', v_reminded,
        'conversion_with_reminder', round(v_with, 4),
        'conversion_without', round(v_without, 4),
        'uplift', round(v_with - v_without, 4)
    );
end;
$$;

comment on function payments.report_reminders(timestamptz) is
'What reminders brought: {reminded, conversion_with_reminder, conversion_without, uplift}; rates are 0 to 1.';

revoke all on function payments.report_reminders(timestamptz) from public, anon, authenticated, service_role;
