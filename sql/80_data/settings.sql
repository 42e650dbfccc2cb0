insert into payments.settings default values;
