"""The law of the ledger, in the database.

`ledger_post` is the only writer of accounts, transfers, links and heads of chains: statement
triggers refuse everybody else, owners of the tables included, and the role that processes run
under may only read them. A batch is one call: it opens the accounts that are missing, checks every
rule in the order of the batch, and binds the batch to the chain by one hash.

The hash of a link is the SHA-256 of: the previous hash; the first and last sequence and the instant
(three 8-byte integers); the number of accounts opened (4 bytes) and, in order of id, their id (8),
owner (8), kind (2) and unit (length in 4 bytes, UTF-8); then per transfer in order its debit
account, credit account and amount (8 each), code (2) and cause (length in 4 bytes, UTF-8). Integers
are big-endian and signed, instants microseconds since the epoch. Nothing is joined by a separator,
so different batches have different bytes (FAULTS P148).
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
    p_at timestamptz
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
SET baseload.ledger = 'open'
AS $$
DECLARE
    v_count integer := cardinality(p_amount);
    v_last bigint := p_expected + v_count;
    v_micros bigint := (extract(epoch FROM p_at) * 1000000)::bigint;
    v_debit bigint[];
    v_credit bigint[];
    v_previous bytea;
    v_opened bytea;
    v_opened_count integer;
    v_rows bytea;
    v_hash bytea;
    v_bad bigint;
BEGIN
    IF ledger_head(p_chain) <> p_expected THEN
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
                (id, owner, kind, unit, debits, credits, may_go_negative, opened_in, created_at)
            SELECT id, id / 64, id % 64, 'USD', 0, 0, id % 64 IN (10, 12, 13), p_expected + 1, p_at
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
                (id, owner, kind, unit, debits, credits, may_go_negative, opened_in, created_at)
            SELECT nextval('settlement_capacity_account'), owner, kind, unit, 0, 0, kind = 50,
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

    -- Totals, in sorted order of accounts; and the lowest point of each on its way there.
    WITH leg AS (
        SELECT debit AS account, place, amount AS debit, 0::bigint AS credit
        FROM unnest(v_debit, p_amount) WITH ORDINALITY AS row (debit, amount, place)
        UNION ALL
        SELECT credit, place, 0, amount
        FROM unnest(v_credit, p_amount) WITH ORDINALITY AS row (credit, amount, place)
    ), running AS (
        SELECT account, debit, credit,
               sum(credit - debit) OVER (PARTITION BY account ORDER BY place) AS balance
        FROM leg
    ), total AS (
        SELECT account, sum(debit)::bigint AS debits, sum(credit)::bigint AS credits,
               min(balance)::bigint AS lowest
        FROM running GROUP BY account ORDER BY account
    ), locked AS (
        SELECT account.id, total.debits, total.credits,
               NOT account.may_go_negative
               AND account.credits - account.debits + total.lowest < 0 AS is_overdrawn
        FROM settlement_account account JOIN total ON total.account = account.id
        ORDER BY account.id FOR NO KEY UPDATE OF account
    ), updated AS (
        UPDATE settlement_account account
        SET debits = account.debits + locked.debits, credits = account.credits + locked.credits
        FROM locked WHERE locked.id = account.id AND NOT locked.is_overdrawn
        RETURNING 1
    )
    SELECT min(id) INTO v_bad FROM locked WHERE is_overdrawn;
    IF v_bad IS NOT NULL THEN
        RAISE EXCEPTION 'account % would be overdrawn', v_bad
            USING ERRCODE = 'BL001', CONSTRAINT = 'insufficient_funds';
    END IF;

    INSERT INTO settlement_transfer
        (chain, sequence, debit_account, credit_account, amount, code, cause, at)
    SELECT p_chain, p_expected + place, debit, credit, amount, code, cause, p_at
    FROM unnest(v_debit, v_credit, p_amount, p_code, p_cause) WITH ORDINALITY
        AS row (debit, credit, amount, code, cause, place)
    ORDER BY place;

    SELECT string_agg(
               int8send(debit) || int8send(credit) || int8send(amount) || int2send(code)
               || int4send(octet_length(cause)) || convert_to(cause, 'UTF8'),
               ''::bytea ORDER BY place)
    INTO v_rows
    FROM unnest(v_debit, v_credit, p_amount, p_code, p_cause) WITH ORDINALITY
        AS row (debit, credit, amount, code, cause, place);
    SELECT hash INTO v_previous FROM settlement_chainhead WHERE chain = p_chain;
    v_hash := sha256(
        v_previous || int8send(p_expected + 1) || int8send(v_last) || int8send(v_micros)
        || int4send(v_opened_count) || v_opened || v_rows);
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
"""

DROP_LEDGER = """
DROP FUNCTION ledger_post(
    text, bigint, bigint[], smallint[], bigint[], smallint[], text[], bigint[], smallint[], text[],
    timestamptz);
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

CREATE TRIGGER transfer_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
    ON settlement_transfer FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER chain_link_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
    ON settlement_chainlink FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER seal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
    ON settlement_seal FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER account_stays BEFORE DELETE OR TRUNCATE
    ON settlement_account FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER chain_head_stays BEFORE DELETE OR TRUNCATE
    ON settlement_chainhead FOR EACH STATEMENT EXECUTE FUNCTION append_only();

CREATE TRIGGER transfer_ledger_only BEFORE INSERT
    ON settlement_transfer FOR EACH STATEMENT EXECUTE FUNCTION ledger_only();
CREATE TRIGGER chain_link_ledger_only BEFORE INSERT
    ON settlement_chainlink FOR EACH STATEMENT EXECUTE FUNCTION ledger_only();
CREATE TRIGGER account_ledger_only BEFORE INSERT OR UPDATE
    ON settlement_account FOR EACH STATEMENT EXECUTE FUNCTION ledger_only();
CREATE TRIGGER chain_head_ledger_only BEFORE INSERT OR UPDATE
    ON settlement_chainhead FOR EACH STATEMENT EXECUTE FUNCTION ledger_only();
"""

DROP_TRIGGERS = """
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
    settlement_account, settlement_transfer, settlement_chainlink, settlement_chainhead
    FROM baseload_app;
REVOKE UPDATE, DELETE ON settlement_seal FROM baseload_app;
REVOKE ALL ON SEQUENCE settlement_capacity_account FROM baseload_app;
REVOKE ALL ON FUNCTION
    ledger_post(text, bigint, bigint[], smallint[], bigint[], smallint[], text[], bigint[],
                smallint[], text[], timestamptz),
    ledger_head(text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    ledger_post(text, bigint, bigint[], smallint[], bigint[], smallint[], text[], bigint[],
                smallint[], text[], timestamptz),
    ledger_head(text)
    TO baseload_app;
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
