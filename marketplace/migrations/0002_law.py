"""What the database itself keeps of the catalog's rules.

Audit entries are never changed or removed, nor is what kind of deployment this is; a key that
answered a request does so for ever. The version of API keys comes from a sequence of its
own, so that it never repeats, also not after rows were removed.
"""

from django.db import migrations

FORWARD = """
CREATE SEQUENCE marketplace_apikey_version;

CREATE FUNCTION marketplace_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_NAME;
END
$$;

CREATE TRIGGER audit_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON marketplace_auditentry
    FOR EACH STATEMENT EXECUTE FUNCTION marketplace_is_append_only();

CREATE TRIGGER idempotency_stays
    BEFORE DELETE OR TRUNCATE OR UPDATE OF id, organization_id, key, fingerprint, created_at
    ON marketplace_idempotencyrecord
    FOR EACH STATEMENT EXECUTE FUNCTION marketplace_is_append_only();

CREATE TRIGGER deployment_is_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON marketplace_deployment
    FOR EACH STATEMENT EXECUTE FUNCTION marketplace_is_append_only();
"""

REVERSE = """
DROP TRIGGER deployment_is_immutable ON marketplace_deployment;
DROP TRIGGER idempotency_stays ON marketplace_idempotencyrecord;
DROP TRIGGER audit_is_append_only ON marketplace_auditentry;
DROP FUNCTION marketplace_is_append_only();
DROP SEQUENCE marketplace_apikey_version;
"""


class Migration(migrations.Migration):
    """Adds the sequence and the trigger."""

    dependencies = [("marketplace", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, REVERSE)]
