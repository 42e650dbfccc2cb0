create function payments.check_buyer_input(p_email text, p_subject text, p_idempotency_key text, p_metadata jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_wrong text;
begin
    v_wrong := case
        when length(p_email) > 320 or p_email !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$'
            then 'p_email must be an e-mail address of at most 320 characters'
        when length(p_subject) not between 1 and 200 or p_subject ~ '[[:cntrl:]]'
            then 'p_subject must have 1 to 200 characters, none of them a control character'
        when length(p_idempotency_key) not between 1 and 255 or p_idempotency_key ~ '[[:cntrl:]]'
            then 'p_idempotency_key must have 1 to 255 characters, none of them a control character'
        when jsonb_typeof(p_metadata) <> 'object' or octet_length(p_metadata::text) > 8192
            then 'p_metadata must be a JSON object of at most 8192 bytes'
    end;
    if v_wrong is not null then
        raise exception '%.', v_wrong
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Correct the argument that the message names.';
    end if;
end;
$$;

comment on function payments.check_buyer_input(text, text, text, jsonb) is
'Checks what buyers may type; nulls are fine. Raises PT422 invalid_input.';

revoke all on function payments.check_buyer_input(text, text, text, jsonb)
from public, anon, authenticated, service_role;
