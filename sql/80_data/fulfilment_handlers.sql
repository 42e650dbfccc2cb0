insert into payments.fulfilment_handlers (kind, fulfil_function)
values
('credits', 'payments.fulfil_credits'),
('subscription', 'payments.fulfil_subscription'),
('none', 'payments.fulfil_none');
