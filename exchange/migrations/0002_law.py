"""What the database itself keeps of the journal's rules.

Batches of the journal and trades are never changed or removed, whoever asks. Snapshots and what
happened to each book are removed when nobody needs them any more, and never changed before.
"""

from django.db import migrations

FORWARD = """
CREATE TRIGGER journal_batch_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
    ON exchange_journalbatch FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER trade_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
    ON exchange_trade FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER snapshot_never_changes BEFORE UPDATE OR TRUNCATE
    ON exchange_snapshot FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER book_delta_never_changes BEFORE UPDATE OR TRUNCATE
    ON exchange_bookdelta FOR EACH STATEMENT EXECUTE FUNCTION append_only();
"""

REVERSE = """
DROP TRIGGER book_delta_never_changes ON exchange_bookdelta;
DROP TRIGGER snapshot_never_changes ON exchange_snapshot;
DROP TRIGGER trade_append_only ON exchange_trade;
DROP TRIGGER journal_batch_append_only ON exchange_journalbatch;
"""


class Migration(migrations.Migration):
    """Adds the triggers."""

    dependencies = [("exchange", "0001_initial"), ("settlement", "0002_law")]
    operations = [migrations.RunSQL(FORWARD, REVERSE)]
