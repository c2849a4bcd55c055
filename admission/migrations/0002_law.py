"""What the database itself keeps true of the data plane's records: they are only ever added to."""

from django.db import migrations

FORWARD = """
CREATE SEQUENCE admission_usage_number AS bigint;

CREATE FUNCTION admission_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'usage_is_append_only';
END $$;

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'admission_request', 'admission_usageevent', 'admission_receipt', 'admission_gatewaykey',
        'admission_logleaf', 'admission_lognode', 'admission_loghead',
        'admission_heartbeat', 'admission_probe', 'admission_poolinterval'] LOOP
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION admission_is_append_only()', v_table);
    END LOOP;
END $$;

-- An offer changes by being withdrawn, and in nothing else: what it covered was at its price.
CREATE TRIGGER cover_offer_stays BEFORE DELETE OR TRUNCATE OR UPDATE OF
    id, cluster, price_ticks, lots, created_at
    ON admission_coveroffer FOR EACH STATEMENT EXECUTE FUNCTION admission_is_append_only();
"""

REVERSE = """
DROP FUNCTION admission_is_append_only() CASCADE;
DROP SEQUENCE admission_usage_number;
"""


class Migration(migrations.Migration):
    dependencies = [("admission", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, REVERSE)]
