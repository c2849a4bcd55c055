"""The law of the ledger, in the database.

`ledger_post` is the only writer of accounts, transfers, links and heads of chains: statement
triggers refuse everybody else, owners of the tables included, and the role that processes run
under may only read them. A batch is one call: it opens the accounts that are missing, checks every
rule in the order of the batch, and binds the batch to the chain by one hash.

A transfer may also be a *hold*, which reserves its amount on the debit account, or what becomes of
one: it is *posted* (up to what is held, the rest is free again), *voided*, or it *expires*. Each is a
row of its own, and `hold_is_resolved_once` keeps a second end out (migration 0004). A transfer that
has an id is posted once for ever: the same batch again is answered as the first was, another one is
refused.

The hash of a link is the SHA-256 of: the previous hash; the first and last sequence and the instant
(three 8-byte integers); the number of accounts opened (4 bytes) and, in order of id, their id (8),
owner (8), kind (2) and unit (length in 4 bytes, UTF-8); then 0 or 1 (4 bytes); then per transfer in
order its debit account, credit account and amount (8 each), code (2) and cause (length in 4 bytes,
UTF-8), and, if it was 1 because a transfer of the batch has an id or is not made at once, its phase
(2), id and hold (length in 4 bytes, UTF-8; nothing of length 0) and end (8; 0 for none). Integers are
big-endian and signed, instants microseconds since the epoch. Nothing is joined by a separator, so
different batches have different bytes (FAULTS P148).

Transfers and links are partitioned by month. `ledger_partitions` makes partitions, each with the
triggers and the rights of the whole, because a statement that names a partition passes those of its
parent by. A job makes them a year ahead; should it not have run, the function that posts makes what
it needs, so that a missing partition never stops the engine.
"""

from django.db import migrations

SEQUENCES = """
CREATE SEQUENCE settlement_instruction_number;
-- Cash accounts have the id owner * 64 + kind, and 63 is no kind: these ids never meet those.
CREATE SEQUENCE settlement_capacity_account START 127 INCREMENT 64 MINVALUE 63;
"""

LEDGER = """
CREATE FUNCTION ledger_genesis() RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT decode(repeat('00', 32), 'hex') $$;

CREATE FUNCTION ledger_account_bytes(p_id bigint, p_owner bigint, p_kind smallint, p_unit text)
RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT int8send(p_id) || int8send(p_owner) || int2send(p_kind)
        || int4send(octet_length(p_unit)) || convert_to(p_unit, 'UTF8')
$$;

CREATE FUNCTION ledger_text_bytes(p_text text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT int4send(coalesce(octet_length(p_text), 0))
        || convert_to(coalesce(p_text, ''), 'UTF8')
$$;

CREATE FUNCTION ledger_micros(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (extract(epoch FROM p_at) * 1000000)::bigint $$;

CREATE FUNCTION ledger_head(p_chain text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
SET baseload.ledger = 'open'
AS $$
DECLARE
    v_sequence bigint;
BEGIN
    SELECT sequence INTO v_sequence FROM settlement_chainhead WHERE chain = p_chain FOR UPDATE;
    IF FOUND THEN
        RETURN v_sequence;
    END IF;
    IF p_chain NOT IN ('cash', 'capacity') THEN
        RAISE EXCEPTION 'there is no chain %', p_chain
            USING ERRCODE = 'BL001', CONSTRAINT = 'chain_unknown';
    END IF;
    INSERT INTO settlement_chainhead (chain, sequence, hash, at)
    VALUES (p_chain, 0, ledger_genesis(), 'epoch') ON CONFLICT (chain) DO NOTHING;
    SELECT sequence INTO v_sequence FROM settlement_chainhead WHERE chain = p_chain FOR UPDATE;
    RETURN v_sequence;
END $$;

CREATE FUNCTION ledger_post(
    p_chain text,
    p_expected bigint,
    p_debit_owner bigint[],
    p_debit_kind smallint[],
    p_credit_owner bigint[],
    p_credit_kind smallint[],
    p_unit text[],
    p_amount bigint[],
    p_code smallint[],
    p_cause text[],
    p_at timestamptz,
    p_phase smallint[] DEFAULT NULL,
    p_id text[] DEFAULT NULL,
    p_hold text[] DEFAULT NULL,
    p_expires_at timestamptz[] DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
SET baseload.ledger = 'open'
AS $$
DECLARE
    v_count integer := cardinality(p_amount);
    v_last bigint := p_expected + v_count;
    v_is_plain boolean := p_phase IS NULL
        OR 0 = ALL (p_phase) AND cardinality(array_remove(p_id, NULL)) = 0;
    v_is_behind boolean;
    v_debit bigint[];
    v_credit bigint[];
    v_moved bigint[] := p_amount;
    v_held bigint[];
    v_previous bytea;
    v_opened bytea;
    v_opened_count integer;
    v_rows bytea;
    v_hash bytea;
    v_bad bigint;
    v_closed bigint;
    v_known bigint;
BEGIN
    v_is_behind := ledger_head(p_chain) <> p_expected;
    IF v_is_behind AND v_is_plain THEN
        RAISE EXCEPTION 'the % chain is not at %', p_chain, p_expected
            USING ERRCODE = 'BL002', CONSTRAINT = 'chain_moved';
    END IF;
    IF v_count = 0 THEN
        RETURN p_expected;
    END IF;
    IF (cardinality(p_debit_owner), cardinality(p_debit_kind), cardinality(p_credit_owner),
        cardinality(p_credit_kind), cardinality(p_code), cardinality(p_cause))
        IS DISTINCT FROM (v_count, v_count, v_count, v_count, v_count, v_count)
        OR cardinality(p_unit) <> v_count
        OR array_position(p_amount, NULL) IS NOT NULL
        OR array_position(p_debit_owner, NULL) IS NOT NULL
        OR array_position(p_credit_owner, NULL) IS NOT NULL
        OR p_at IS NULL
        OR NOT v_is_plain AND (
            (cardinality(p_phase), cardinality(p_id), cardinality(p_hold),
             cardinality(p_expires_at))
            IS DISTINCT FROM (v_count, v_count, v_count, v_count)
            OR array_position(p_phase, NULL) IS NOT NULL)
    THEN
        RAISE EXCEPTION 'a batch has whole rows'
            USING ERRCODE = 'BL001', CONSTRAINT = 'batch_is_whole';
    END IF;
    IF 1 > ANY (p_amount) THEN
        RAISE EXCEPTION 'an amount is not positive'
            USING ERRCODE = 'BL001', CONSTRAINT = 'invalid_amount';
    END IF;
    IF 0 > ANY (p_debit_owner) OR 0 > ANY (p_credit_owner) THEN
        RAISE EXCEPTION 'an owner is not an organization'
            USING ERRCODE = 'BL001', CONSTRAINT = 'owner_unknown';
    END IF;
    -- Both sides of a transfer have its one unit; so it is enough that the kinds fit the unit.
    IF p_chain = 'cash' AND (p_unit IS NOT NULL
            OR 49 < ANY (p_debit_kind) OR 49 < ANY (p_credit_kind)
            OR 1 > ANY (p_debit_kind) OR 1 > ANY (p_credit_kind))
        OR p_chain = 'capacity' AND (p_unit IS NULL OR array_position(p_unit, NULL) IS NOT NULL
            OR NOT 'mNTU:' = ALL (SELECT left(unit, 5) FROM unnest(p_unit) unit)
            OR 50 > ANY (p_debit_kind) OR 50 > ANY (p_credit_kind)
            OR 62 < ANY (p_debit_kind) OR 62 < ANY (p_credit_kind))
    THEN
        RAISE EXCEPTION 'a side is not of the unit of its transfer'
            USING ERRCODE = 'BL001', CONSTRAINT = 'unit_mismatch';
    END IF;

    -- Name the accounts, opening those that are missing.
    IF p_chain = 'cash' THEN
        SELECT array_agg(debit_owner * 64 + debit_kind ORDER BY place),
               array_agg(credit_owner * 64 + credit_kind ORDER BY place)
        INTO v_debit, v_credit
        FROM unnest(p_debit_owner, p_debit_kind, p_credit_owner, p_credit_kind) WITH ORDINALITY
            AS row (debit_owner, debit_kind, credit_owner, credit_kind, place);
        WITH opened AS (
            INSERT INTO settlement_account
                (id, owner, kind, unit, debits, credits, held, may_go_negative, opened_in,
                 created_at)
            SELECT id, id / 64, id % 64, 'USD', 0, 0, 0, id % 64 IN (10, 12, 13), p_expected + 1,
                   p_at
            FROM (SELECT DISTINCT id FROM unnest(v_debit || v_credit) AS id) missing
            WHERE NOT EXISTS (
                SELECT 1 FROM settlement_account account WHERE account.id = missing.id)
            ORDER BY id
            RETURNING id, owner, kind, unit
        )
        SELECT count(*), coalesce(string_agg(ledger_account_bytes(id, owner, kind, unit),
                                             ''::bytea ORDER BY id), ''::bytea)
        INTO v_opened_count, v_opened FROM opened;
    ELSE
        WITH opened AS (
            INSERT INTO settlement_account
                (id, owner, kind, unit, debits, credits, held, may_go_negative, opened_in,
                 created_at)
            SELECT nextval('settlement_capacity_account'), owner, kind, unit, 0, 0, 0, kind = 50,
                   p_expected + 1, p_at
            FROM (
                SELECT DISTINCT owner, kind, unit FROM (
                    SELECT * FROM unnest(p_debit_owner, p_debit_kind, p_unit)
                    UNION ALL
                    SELECT * FROM unnest(p_credit_owner, p_credit_kind, p_unit)
                ) AS side (owner, kind, unit)
                WHERE NOT EXISTS (
                    SELECT 1 FROM settlement_account account
                    WHERE account.owner = side.owner AND account.kind = side.kind
                      AND account.unit = side.unit)
                ORDER BY unit, kind, owner
            ) missing
            RETURNING id, owner, kind, unit
        )
        SELECT count(*), coalesce(string_agg(ledger_account_bytes(id, owner, kind, unit),
                                             ''::bytea ORDER BY id), ''::bytea)
        INTO v_opened_count, v_opened FROM opened;
        SELECT array_agg(debit.id ORDER BY place), array_agg(credit.id ORDER BY place)
        INTO v_debit, v_credit
        FROM unnest(p_debit_owner, p_debit_kind, p_credit_owner, p_credit_kind, p_unit)
            WITH ORDINALITY
            AS row (debit_owner, debit_kind, credit_owner, credit_kind, unit, place)
        JOIN settlement_account debit ON debit.owner = row.debit_owner
            AND debit.kind = row.debit_kind AND debit.unit = row.unit
        JOIN settlement_account credit ON credit.owner = row.credit_owner
            AND credit.kind = row.credit_kind AND credit.unit = row.unit;
    END IF;
    IF EXISTS (SELECT 1 FROM unnest(v_debit, v_credit) AS side (debit, credit)
               WHERE debit = credit) THEN
        RAISE EXCEPTION 'a transfer has one account on both sides'
            USING ERRCODE = 'BL001', CONSTRAINT = 'same_account';
    END IF;

    IF NOT v_is_plain THEN
        v_known := ledger_known(
            p_chain, v_debit, v_credit, p_amount, p_code, p_cause, p_phase, p_id, p_hold,
            p_expires_at);
        IF v_known IS NOT NULL THEN
            RETURN v_known;
        END IF;
        IF v_is_behind THEN
            RAISE EXCEPTION 'the % chain is not at %', p_chain, p_expected
                USING ERRCODE = 'BL002', CONSTRAINT = 'chain_moved';
        END IF;
        SELECT moved, held INTO v_moved, v_held
        FROM ledger_resolve(
            p_chain, p_expected, v_debit, v_credit, p_amount, p_at, p_phase, p_id, p_hold,
            p_expires_at);
    END IF;

    -- Totals, in sorted order of accounts; and the lowest point of each on its way there.
    WITH leg AS (
        SELECT debit AS account, place, moved AS debit, 0::bigint AS credit,
               coalesce(held, 0) AS held
        FROM unnest(v_debit, v_moved, v_held) WITH ORDINALITY AS row (debit, moved, held, place)
        UNION ALL
        SELECT credit, place, 0, moved, 0
        FROM unnest(v_credit, v_moved) WITH ORDINALITY AS row (credit, moved, place)
    ), running AS (
        SELECT account, debit, credit, held,
               sum(credit - debit - held) OVER (PARTITION BY account ORDER BY place) AS balance
        FROM leg
    ), total AS (
        SELECT account, sum(debit)::bigint AS debits, sum(credit)::bigint AS credits,
               sum(held)::bigint AS held, min(balance)::bigint AS lowest
        FROM running GROUP BY account ORDER BY account
    ), locked AS (
        SELECT account.id, total.debits, total.credits, total.held,
               account.closed_in IS NOT NULL AS is_closed,
               NOT account.may_go_negative
               AND account.credits - account.debits - account.held + total.lowest < 0
                   AS is_overdrawn
        FROM settlement_account account JOIN total ON total.account = account.id
        ORDER BY account.id FOR NO KEY UPDATE OF account
    ), updated AS (
        UPDATE settlement_account account
        SET debits = account.debits + locked.debits, credits = account.credits + locked.credits,
            held = account.held + locked.held
        FROM locked
        WHERE locked.id = account.id AND NOT locked.is_overdrawn AND NOT locked.is_closed
        RETURNING 1
    )
    SELECT min(id) FILTER (WHERE is_overdrawn), min(id) FILTER (WHERE is_closed)
    INTO v_bad, v_closed FROM locked;
    IF v_closed IS NOT NULL THEN
        RAISE EXCEPTION 'account % is closed', v_closed
            USING ERRCODE = 'BL001', CONSTRAINT = 'account_closed';
    END IF;
    IF v_bad IS NOT NULL THEN
        RAISE EXCEPTION 'account % would be overdrawn', v_bad
            USING ERRCODE = 'BL001', CONSTRAINT = 'insufficient_funds';
    END IF;

    IF to_regclass('public.settlement_transfer_' || to_char(p_at AT TIME ZONE 'UTC', 'YYYYMM'))
        IS NULL
    THEN
        PERFORM ledger_partitions(p_at, 2);
    END IF;
    INSERT INTO settlement_transfer
        (chain, sequence, debit_account, credit_account, amount, code, cause, at,
         phase, id, hold, expires_at)
    SELECT p_chain, p_expected + place, debit, credit, amount, code, cause, p_at,
           coalesce(phase, 0), id, hold, expires_at
    FROM unnest(v_debit, v_credit, p_amount, p_code, p_cause, p_phase, p_id, p_hold, p_expires_at)
        WITH ORDINALITY
        AS row (debit, credit, amount, code, cause, phase, id, hold, expires_at, place)
    ORDER BY place;

    IF v_is_plain THEN
        SELECT string_agg(
                   int8send(debit) || int8send(credit) || int8send(amount) || int2send(code)
                   || int4send(octet_length(cause)) || convert_to(cause, 'UTF8'),
                   ''::bytea ORDER BY place)
        INTO v_rows
        FROM unnest(v_debit, v_credit, p_amount, p_code, p_cause) WITH ORDINALITY
            AS row (debit, credit, amount, code, cause, place);
    ELSE
        INSERT INTO settlement_transferid (chain, sequence, id, at)
        SELECT p_chain, p_expected + place, id, p_at
        FROM unnest(p_id) WITH ORDINALITY AS row (id, place) WHERE id IS NOT NULL;
        SELECT string_agg(
                   int8send(debit) || int8send(credit) || int8send(amount) || int2send(code)
                   || ledger_text_bytes(cause) || int2send(phase) || ledger_text_bytes(id)
                   || ledger_text_bytes(hold) || int8send(coalesce(ledger_micros(expires_at), 0)),
                   ''::bytea ORDER BY place)
        INTO v_rows
        FROM unnest(v_debit, v_credit, p_amount, p_code, p_cause, p_phase, p_id, p_hold,
                    p_expires_at) WITH ORDINALITY
            AS row (debit, credit, amount, code, cause, phase, id, hold, expires_at, place);
    END IF;
    SELECT hash INTO v_previous FROM settlement_chainhead WHERE chain = p_chain;
    v_hash := sha256(
        v_previous || int8send(p_expected + 1) || int8send(v_last)
        || int8send(ledger_micros(p_at)) || int4send(v_opened_count) || v_opened
        || int4send(CASE WHEN v_is_plain THEN 0 ELSE 1 END) || v_rows);
    INSERT INTO settlement_chainlink (chain, sequence, first_sequence, previous_hash, hash, at)
    VALUES (p_chain, v_last, p_expected + 1, v_previous, v_hash, p_at);
    UPDATE settlement_chainhead SET sequence = v_last, hash = v_hash, at = p_at
    WHERE chain = p_chain AND sequence = p_expected;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the % chain is not at %', p_chain, p_expected
            USING ERRCODE = 'BL002', CONSTRAINT = 'chain_moved';
    END IF;
    RETURN v_last;
END $$;

-- The last sequence of a chain before an instant: instants never fall along a chain, so it is found
-- by halving. A period is then a range of the index of accounts, however many months lie beside it.
CREATE FUNCTION ledger_sequence_before(p_chain text, p_at timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    v_low bigint := 0;
    v_high bigint;
    v_middle bigint;
    v_at timestamptz;
BEGIN
    SELECT sequence INTO v_high FROM settlement_chainhead WHERE chain = p_chain;
    WHILE v_low < coalesce(v_high, 0) LOOP
        v_middle := (v_low + v_high + 1) / 2;
        SELECT at INTO v_at FROM settlement_transfer
        WHERE chain = p_chain AND sequence = v_middle;
        IF v_at < p_at THEN
            v_low := v_middle;
        ELSE
            v_high := v_middle - 1;
        END IF;
    END LOOP;
    RETURN v_low;
END $$;
"""

DROP_LEDGER = """
DROP FUNCTION ledger_sequence_before(text, timestamptz);
DROP FUNCTION ledger_post(
    text, bigint, bigint[], smallint[], bigint[], smallint[], text[], bigint[], smallint[], text[],
    timestamptz, smallint[], text[], text[], timestamptz[]);
DROP FUNCTION ledger_micros(timestamptz);
DROP FUNCTION ledger_text_bytes(text);
DROP FUNCTION ledger_head(text);
DROP FUNCTION ledger_account_bytes(bigint, bigint, smallint, text);
DROP FUNCTION ledger_genesis();
"""

TRIGGERS = """
CREATE FUNCTION append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME
        USING ERRCODE = 'BL003', CONSTRAINT = 'append_only';
END $$;

CREATE FUNCTION ledger_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('baseload.ledger', true) IS DISTINCT FROM 'open' THEN
        RAISE EXCEPTION 'only ledger_post writes %', TG_TABLE_NAME
            USING ERRCODE = 'BL003', CONSTRAINT = 'ledger_only';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_guard(p_table regclass) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s'
        ' FOR EACH STATEMENT EXECUTE FUNCTION append_only()', p_table);
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER ledger_only BEFORE INSERT ON %s'
        ' FOR EACH STATEMENT EXECUTE FUNCTION ledger_only()', p_table);
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'baseload_app') THEN
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON %s FROM baseload_app', p_table);
    END IF;
END $$;

SELECT ledger_guard(name::regclass) FROM unnest(ARRAY[
    'settlement_transfer', 'settlement_chainlink', 'settlement_transferid', 'settlement_hold',
    'settlement_holdresolution']) AS name;

-- Makes the partitions of a month and of some months after it; returns how many were missing.
CREATE FUNCTION ledger_partitions(p_at timestamptz, p_months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    v_table text;
    v_name text;
    v_month timestamp;
    v_made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ledger_partitions'));
    FOR v_month IN
        SELECT generate_series(
            date_trunc('month', p_at AT TIME ZONE 'UTC'),
            date_trunc('month', p_at AT TIME ZONE 'UTC') + make_interval(months => p_months),
            interval '1 month')
    LOOP
        FOREACH v_table IN ARRAY ARRAY['settlement_transfer', 'settlement_chainlink'] LOOP
            v_name := 'public.' || v_table || '_' || to_char(v_month, 'YYYYMM');
            CONTINUE WHEN to_regclass(v_name) IS NOT NULL;
            -- To attach is to lock out neither readers nor writers of the whole.
            EXECUTE format('CREATE TABLE %s (LIKE public.%I INCLUDING ALL)', v_name, v_table);
            PERFORM ledger_guard(v_name::regclass);
            EXECUTE format(
                'ALTER TABLE public.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                v_table, v_name, v_month AT TIME ZONE 'UTC',
                (v_month + interval '1 month') AT TIME ZONE 'UTC');
            v_made := v_made + 1;
        END LOOP;
    END LOOP;
    RETURN v_made;
END $$;

SELECT ledger_guard(inhrelid::regclass) FROM pg_inherits
WHERE inhparent IN ('settlement_transfer'::regclass, 'settlement_chainlink'::regclass);

CREATE TRIGGER account_stays BEFORE DELETE OR TRUNCATE
    ON settlement_account FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER chain_head_stays BEFORE DELETE OR TRUNCATE
    ON settlement_chainhead FOR EACH STATEMENT EXECUTE FUNCTION append_only();

-- What was found, said, paid or made of a day is a fact; a dispute alone has states.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'settlement_seal', 'settlement_mark', 'settlement_indexvalue', 'settlement_obligation',
        'settlement_allocation', 'settlement_deliveryreport', 'settlement_intervalsettlement',
        'settlement_slotsettlement', 'settlement_insurancepayment', 'settlement_packageresale',
        'settlement_defaultevent', 'settlement_waterfalldraw', 'settlement_clockjump',
        'settlement_settlementrun', 'settlement_settlementrunline', 'settlement_deliverycorrection',
        'settlement_deliveryrevision', 'settlement_deliveryfigure', 'settlement_deliverydifference',
        'settlement_insuranceposition', 'settlement_insuredusage', 'settlement_insurancerunline',
        'settlement_insurancecorrection', 'settlement_monthlystatement',
        'settlement_deliverycover', 'settlement_coversettlement'] LOOP
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION append_only()', v_table);
    END LOOP;
END $$;

-- Of these one thing changes: what was metered so far, what the machine made of an instruction.
CREATE TRIGGER entitlement_stays BEFORE DELETE OR TRUNCATE OR UPDATE OF
    id, organization_id, grade, starts_at, lots, price_ticks, escrow_micros
    ON settlement_entitlement FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER instruction_stays BEFORE DELETE OR TRUNCATE OR UPDATE OF
    id, number, body, created_at
    ON settlement_instruction FOR EACH STATEMENT EXECUTE FUNCTION append_only();

CREATE TRIGGER account_ledger_only BEFORE INSERT OR UPDATE
    ON settlement_account FOR EACH STATEMENT EXECUTE FUNCTION ledger_only();
CREATE TRIGGER chain_head_ledger_only BEFORE INSERT OR UPDATE
    ON settlement_chainhead FOR EACH STATEMENT EXECUTE FUNCTION ledger_only();
"""

DROP_TRIGGERS = """
DROP FUNCTION ledger_partitions(timestamptz, integer);
DROP FUNCTION ledger_guard(regclass);
DROP FUNCTION append_only() CASCADE;
DROP FUNCTION ledger_only() CASCADE;
"""

ROLE = """
DO $$
BEGIN
    -- Roles belong to the whole server: databases that migrate at the same moment may meet here.
    FOR attempt IN 1..10 LOOP
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'baseload_app') THEN
                CREATE ROLE baseload_app NOLOGIN;
            END IF;
            EXECUTE format('GRANT baseload_app TO %I', current_user);
            EXIT;
        EXCEPTION WHEN duplicate_object OR unique_violation OR internal_error THEN
            PERFORM pg_sleep(0.05);
        END;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA public TO baseload_app;
-- What is here now, and what later migrations of any app create, by the same owner.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO baseload_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO baseload_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO baseload_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO baseload_app;

REVOKE INSERT, UPDATE, DELETE ON
    settlement_account, settlement_transfer, settlement_chainlink, settlement_chainhead,
    settlement_transferid, settlement_hold, settlement_holdresolution
    FROM baseload_app;
REVOKE UPDATE, DELETE ON settlement_seal FROM baseload_app;
REVOKE ALL ON SEQUENCE settlement_capacity_account FROM baseload_app;
REVOKE ALL ON FUNCTION ledger_post, ledger_head, ledger_partitions, ledger_guard FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_post, ledger_head, ledger_partitions TO baseload_app;
SELECT ledger_partitions(now(), 2);
"""

DROP_ROLE = """
ALTER DEFAULT PRIVILEGES IN SCHEMA public
    REVOKE SELECT, INSERT, UPDATE, DELETE ON TABLES FROM baseload_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE USAGE, SELECT ON SEQUENCES FROM baseload_app;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM baseload_app;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM baseload_app;
REVOKE USAGE ON SCHEMA public FROM baseload_app;
"""


class Migration(migrations.Migration):
    dependencies = [("settlement", "0001_initial")]

    operations = [
        migrations.RunSQL(
            SEQUENCES,
            "DROP SEQUENCE settlement_instruction_number;"
            "DROP SEQUENCE settlement_capacity_account;",
        ),
        migrations.RunSQL(LEDGER, DROP_LEDGER),
        migrations.RunSQL(TRIGGERS, DROP_TRIGGERS),
        migrations.RunSQL(ROLE, DROP_ROLE),
    ]
