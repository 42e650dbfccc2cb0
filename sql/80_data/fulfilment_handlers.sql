insert into payments.fulfilment_handlers (kind, fulfil_function, reverse_function, check_function)
values
('credits', 'payments.fulfil_credits', 'payments.reverse_credits', null),
('subscription', 'payments.fulfil_subscription', 'payments.reverse_subscription', null),
('group_create', 'payments.fulfil_group_create', 'payments.reverse_group_create', 'payments.check_group_create'),
('group_join', 'payments.fulfil_group_join', 'payments.reverse_group_join', 'payments.check_group_join'),
('contribution', 'payments.fulfil_contribution', 'payments.reverse_contribution', 'payments.check_contribution'),
('none', 'payments.fulfil_none', 'payments.reverse_none', null);
