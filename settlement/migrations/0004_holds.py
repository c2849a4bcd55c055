"""What the ledger's one writer does with holds, ids, corrections and the closing of accounts.

`ledger_known` and `ledger_resolve` are parts of `ledger_post` (migration 0002) for batches that are
not plain; nobody else may call them. What is held on an account is checked against its open holds at
the end of every transaction that touched either, by a constraint of that name: only accounts whose
held amount changed are looked at, so a plain batch pays nothing for it.
"""

from django.db import migrations

HOLDS = """
-- The last sequence of what was posted under these ids before, or nothing if none of them was.
CREATE FUNCTION ledger_known(
    p_chain text, p_debit bigint[], p_credit bigint[], p_amount bigint[], p_code smallint[],
    p_cause text[], p_phase smallint[], p_id text[], p_hold text[], p_expires_at timestamptz[]
) RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_known integer;
    v_same integer;
    v_first bigint;
    v_last bigint;
BEGIN
    IF (SELECT count(id) <> count(DISTINCT id) FROM unnest(p_id) AS id) THEN
        RAISE EXCEPTION 'a batch has an id twice'
            USING ERRCODE = 'BL001', CONSTRAINT = 'transfer_differs';
    END IF;
    SELECT count(known.id), min(known.sequence - row.place),
           max(known.sequence - row.place) + cardinality(p_id)
    INTO v_known, v_first, v_last
    FROM unnest(p_id) WITH ORDINALITY AS row (id, place)
    JOIN settlement_transferid known ON known.chain = p_chain AND known.id = row.id;
    IF v_known = 0 THEN
        RETURN NULL;
    END IF;
    -- What a batch once was it is as a whole: its transfers stand where they stood, all of them.
    SELECT count(*) INTO v_same
    FROM unnest(p_debit, p_credit, p_amount, p_code, p_cause, p_phase, p_id, p_hold, p_expires_at)
        WITH ORDINALITY
        AS row (debit, credit, amount, code, cause, phase, id, hold, expires_at, place)
    JOIN settlement_transfer posted
      ON posted.chain = p_chain AND posted.sequence = v_first + row.place
     AND posted.debit_account = row.debit AND posted.credit_account = row.credit
     AND posted.amount = row.amount AND posted.code = row.code AND posted.cause = row.cause
     AND posted.phase = row.phase AND posted.id IS NOT DISTINCT FROM row.id
     AND posted.hold IS NOT DISTINCT FROM row.hold
     AND posted.expires_at IS NOT DISTINCT FROM row.expires_at;
    IF v_same <> cardinality(p_id) OR NOT EXISTS (
        SELECT 1 FROM settlement_chainlink
        WHERE chain = p_chain AND sequence = v_last AND first_sequence = v_first + 1)
    THEN
        RAISE EXCEPTION 'an id stands for another transfer'
            USING ERRCODE = 'BL001', CONSTRAINT = 'transfer_differs';
    END IF;
    RETURN v_last;
END $$;

-- Places holds, ends holds, and says what each transfer moves and by how much it changes what is
-- held on its debit account.
CREATE FUNCTION ledger_resolve(
    p_chain text, p_expected bigint, p_debit bigint[], p_credit bigint[], p_amount bigint[],
    p_at timestamptz, p_phase smallint[], p_id text[], p_hold text[], p_expires_at timestamptz[],
    OUT moved bigint[], OUT held bigint[]
)
LANGUAGE plpgsql
AS $$
DECLARE
    v_wrong text;
BEGIN
    INSERT INTO settlement_hold
        (chain, sequence, id, debit_account, credit_account, amount, expires_at)
    SELECT p_chain, p_expected + place, id, debit, credit, amount, expires_at
    FROM unnest(p_debit, p_credit, p_amount, p_phase, p_id, p_expires_at) WITH ORDINALITY
        AS row (debit, credit, amount, phase, id, expires_at, place)
    WHERE phase = 1;
    SELECT wrong INTO v_wrong FROM (
        SELECT place, CASE
            WHEN hold.id IS NULL OR hold.sequence >= p_expected + place
                OR (hold.debit_account, hold.credit_account) <> (debit, credit)
                THEN 'hold_unknown'
            WHEN ended.phase = 2 THEN 'hold_posted'
            WHEN ended.phase = 3 THEN 'hold_voided'
            WHEN ended.phase = 4 OR row.phase < 4 AND hold.expires_at <= p_at THEN 'hold_expired'
            WHEN row.phase = 4 AND coalesce(hold.expires_at > p_at, true) THEN 'hold_not_expired'
            WHEN row.amount > hold.amount OR row.phase > 2 AND row.amount < hold.amount
                THEN 'exceeds_hold'
            END AS wrong
        FROM (
            SELECT *, lag(phase) OVER (PARTITION BY name ORDER BY place) AS before
            FROM unnest(p_debit, p_credit, p_amount, p_phase, p_hold) WITH ORDINALITY
                AS given (debit, credit, amount, phase, name, place)
            WHERE phase > 1
        ) row
        LEFT JOIN settlement_hold hold ON hold.chain = p_chain AND hold.id = row.name
        LEFT JOIN LATERAL (
            SELECT resolution.phase FROM settlement_holdresolution resolution
            WHERE resolution.chain = p_chain AND resolution.hold = row.name
            UNION ALL SELECT row.before WHERE row.before IS NOT NULL
        ) ended ON true
    ) judged WHERE wrong IS NOT NULL ORDER BY place LIMIT 1;
    IF v_wrong IS NOT NULL THEN
        RAISE EXCEPTION 'a hold is not resolved: %', v_wrong
            USING ERRCODE = 'BL001', CONSTRAINT = v_wrong;
    END IF;
    INSERT INTO settlement_holdresolution (chain, sequence, hold, phase, amount)
    SELECT p_chain, p_expected + place, name, phase, CASE phase WHEN 2 THEN amount ELSE 0 END
    FROM unnest(p_amount, p_phase, p_hold) WITH ORDINALITY AS row (amount, phase, name, place)
    WHERE phase > 1;
    SELECT array_agg(CASE WHEN row.phase IN (0, 2) THEN row.amount ELSE 0 END ORDER BY place),
           array_agg(CASE row.phase WHEN 0 THEN 0 WHEN 1 THEN row.amount ELSE -hold.amount END
                     ORDER BY place)
    INTO moved, held
    FROM unnest(p_amount, p_phase, p_hold) WITH ORDINALITY AS row (amount, phase, name, place)
    LEFT JOIN settlement_hold hold ON hold.chain = p_chain AND hold.id = row.name;
END $$;

-- What is held on an account is what its open holds add up to, whoever wrote either.
CREATE FUNCTION held_is_the_sum_of_holds() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public
AS $$
DECLARE
    v_account bigint;
    v_held bigint;
BEGIN
    IF TG_TABLE_NAME = 'settlement_account' THEN
        v_account := NEW.id;
    ELSIF TG_TABLE_NAME = 'settlement_hold' THEN
        v_account := NEW.debit_account;
    ELSE
        SELECT debit_account INTO v_account FROM settlement_hold
        WHERE chain = NEW.chain AND id = NEW.hold;
    END IF;
    SELECT coalesce(sum(hold.amount), 0) INTO v_held FROM settlement_hold hold
    WHERE hold.debit_account = v_account AND NOT EXISTS (
        SELECT 1 FROM settlement_holdresolution resolution
        WHERE resolution.chain = hold.chain AND resolution.hold = hold.id);
    IF v_held IS DISTINCT FROM (SELECT held FROM settlement_account WHERE id = v_account) THEN
        RAISE EXCEPTION 'account % does not hold the sum of its holds', v_account
            USING ERRCODE = 'BL003', CONSTRAINT = 'held_is_the_sum_of_holds';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER account_held_is_the_sum AFTER UPDATE ON settlement_account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.held IS DISTINCT FROM NEW.held)
    EXECUTE FUNCTION held_is_the_sum_of_holds();
CREATE CONSTRAINT TRIGGER new_account_held_is_the_sum AFTER INSERT ON settlement_account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.held <> 0)
    EXECUTE FUNCTION held_is_the_sum_of_holds();
CREATE CONSTRAINT TRIGGER hold_is_held AFTER INSERT ON settlement_hold
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held_is_the_sum_of_holds();
CREATE CONSTRAINT TRIGGER resolved_hold_is_not_held AFTER INSERT ON settlement_holdresolution
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held_is_the_sum_of_holds();
"""

DROP_HOLDS = """
DROP FUNCTION held_is_the_sum_of_holds() CASCADE;
DROP FUNCTION ledger_resolve(
    text, bigint, bigint[], bigint[], bigint[], timestamptz, smallint[], text[], text[],
    timestamptz[]);
DROP FUNCTION ledger_known(
    text, bigint[], bigint[], bigint[], smallint[], text[], smallint[], text[], text[],
    timestamptz[]);
"""

CORRECTIONS = """
-- Posts the opposite of everything a batch moved, the last first; of one batch only once.
CREATE FUNCTION ledger_reverse(
    p_chain text, p_expected bigint, p_sequence bigint, p_code smallint, p_cause text,
    p_at timestamptz
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    v_first bigint;
    v_count integer;
    v_debit_owner bigint[];
    v_debit_kind smallint[];
    v_credit_owner bigint[];
    v_credit_kind smallint[];
    v_unit text[];
    v_amount bigint[];
    v_id text[];
BEGIN
    IF ledger_head(p_chain) <> p_expected THEN
        RAISE EXCEPTION 'the % chain is not at %', p_chain, p_expected
            USING ERRCODE = 'BL002', CONSTRAINT = 'chain_moved';
    END IF;
    SELECT first_sequence INTO v_first FROM settlement_chainlink
    WHERE chain = p_chain AND sequence = p_sequence;
    IF EXISTS (
        SELECT 1 FROM generate_series(v_first, p_sequence) AS reversed
        JOIN settlement_transferid known
          ON known.chain = p_chain AND known.id = 'reversal:' || reversed)
    THEN
        RAISE EXCEPTION 'the batch that ends at % was reversed before', p_sequence
            USING ERRCODE = 'BL001', CONSTRAINT = 'already_reversed';
    END IF;
    SELECT count(*), array_agg(credit.owner), array_agg(credit.kind), array_agg(debit.owner),
           array_agg(debit.kind), array_agg(debit.unit), array_agg(row.amount),
           array_agg('reversal:' || row.sequence)
    INTO v_count, v_debit_owner, v_debit_kind, v_credit_owner, v_credit_kind, v_unit, v_amount,
         v_id
    FROM (
        SELECT * FROM settlement_transfer
        WHERE chain = p_chain AND sequence BETWEEN v_first AND p_sequence AND phase IN (0, 2)
        ORDER BY sequence DESC
    ) row
    JOIN settlement_account debit ON debit.id = row.debit_account
    JOIN settlement_account credit ON credit.id = row.credit_account;
    IF v_count = 0 THEN
        RAISE EXCEPTION 'no batch ends at %, or it moved nothing', p_sequence
            USING ERRCODE = 'BL001', CONSTRAINT = 'batch_unknown';
    END IF;
    RETURN ledger_post(
        p_chain, p_expected, v_debit_owner, v_debit_kind, v_credit_owner, v_credit_kind,
        CASE WHEN p_chain = 'cash' THEN NULL ELSE v_unit END, v_amount,
        array_fill(p_code, ARRAY[v_count]), array_fill(p_cause, ARRAY[v_count]), p_at,
        array_fill(0::smallint, ARRAY[v_count]), v_id, array_fill(NULL::text, ARRAY[v_count]),
        array_fill(NULL::timestamptz, ARRAY[v_count]));
END $$;

-- Closes an account that is empty; nothing is posted to it afterwards.
CREATE FUNCTION ledger_close(p_chain text, p_account bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
SET baseload.ledger = 'open'
AS $$
DECLARE
    v_head bigint := ledger_head(p_chain);
    v_account settlement_account%ROWTYPE;
BEGIN
    SELECT * INTO v_account FROM settlement_account
    WHERE id = p_account AND (p_chain = 'cash') = (kind < 50) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the % chain has no account %', p_chain, p_account
            USING ERRCODE = 'BL001', CONSTRAINT = 'account_unknown';
    END IF;
    IF v_account.closed_in IS NOT NULL THEN
        RAISE EXCEPTION 'account % is closed', p_account
            USING ERRCODE = 'BL001', CONSTRAINT = 'account_closed';
    END IF;
    IF v_account.credits <> v_account.debits OR v_account.held <> 0 THEN
        RAISE EXCEPTION 'account % is not empty', p_account
            USING ERRCODE = 'BL001', CONSTRAINT = 'account_not_empty';
    END IF;
    UPDATE settlement_account SET closed_in = v_head WHERE id = p_account;
    RETURN v_head;
END $$;
"""

DROP_CORRECTIONS = """
DROP FUNCTION ledger_close(text, bigint);
DROP FUNCTION ledger_reverse(text, bigint, bigint, smallint, text, timestamptz);
"""

RIGHTS = """
REVOKE ALL ON FUNCTION ledger_known, ledger_resolve, ledger_reverse, ledger_close FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_reverse, ledger_close TO baseload_app;
"""


class Migration(migrations.Migration):
    dependencies = [("settlement", "0003_shown")]

    operations = [
        migrations.RunSQL(HOLDS, DROP_HOLDS),
        migrations.RunSQL(CORRECTIONS, DROP_CORRECTIONS),
        migrations.RunSQL(RIGHTS, migrations.RunSQL.noop),
    ]
