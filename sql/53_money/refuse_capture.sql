-- The wrong money: too little, or another currency. It is recorded and flagged, and it fulfils nothing.
create function payments.refuse_capture(
    p_session public.payment_checkout_sessions,
    p_capture payments.captures,
    p_source text,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.move_session(
        p_session.id,
        array['pending', 'processing'],
        (
            'failed', p_source, p_capture.disposition, p_capture.disposition,
            format(
                '%s %s were due, %s %s came (minor units).',
                p_session.amount, p_session.currency, p_capture.amount, p_capture.currency
            )
        ),
        p_capture.paid_at,
        p_now
    );
    return payments.flag_session(
        payments.session_by_id(p_session.id), p_capture.disposition, p_source, p_capture.paid_at, p_now
    );
end;
$$;

comment on function payments.refuse_capture(
    public.payment_checkout_sessions, payments.captures, text, timestamptz
) is
'Fails an open session whose capture does not match its price, and flags it for review.';

revoke all on function payments.refuse_capture(
    public.payment_checkout_sessions, payments.captures, text, timestamptz
) from public, anon, authenticated, service_role;
