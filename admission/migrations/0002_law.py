"""What the database itself keeps true of the data plane's records: they are only ever added to."""

from django.db import migrations

FORWARD = """
CREATE SEQUENCE admission_usage_number AS bigint;

CREATE FUNCTION admission_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'usage_is_append_only';
END $$;

CREATE TRIGGER request_is_append_only BEFORE UPDATE OR DELETE ON admission_request
    FOR EACH STATEMENT EXECUTE FUNCTION admission_is_append_only();
CREATE TRIGGER gatewaykey_is_append_only BEFORE UPDATE OR DELETE ON admission_gatewaykey
    FOR EACH STATEMENT EXECUTE FUNCTION admission_is_append_only();
CREATE TRIGGER receipt_is_append_only BEFORE UPDATE OR DELETE ON admission_receipt
    FOR EACH STATEMENT EXECUTE FUNCTION admission_is_append_only();
CREATE TRIGGER usage_is_append_only BEFORE UPDATE OR DELETE ON admission_usageevent
    FOR EACH STATEMENT EXECUTE FUNCTION admission_is_append_only();
"""

REVERSE = """
DROP TRIGGER usage_is_append_only ON admission_usageevent;
DROP TRIGGER receipt_is_append_only ON admission_receipt;
DROP TRIGGER gatewaykey_is_append_only ON admission_gatewaykey;
DROP TRIGGER request_is_append_only ON admission_request;
DROP FUNCTION admission_is_append_only();
DROP SEQUENCE admission_usage_number;
"""


class Migration(migrations.Migration):
    dependencies = [("admission", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, REVERSE)]
