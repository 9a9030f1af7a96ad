//! The controller on files in memory and a TPM in memory.

use super::super::OrderAction;
use super::*;
use crate::files::fake::FakeFiles;
use crate::tpm::TpmHost;
use crate::tpm::fake::{FakeTpm, Power};
use machined_access::IdentityKey;
use machined_ids::{Epoch, Fingerprint, Seq, StepId};
use machined_runtime::Store;
use std::sync::Mutex;

struct Machine {
    controller: TrustController<FakeFiles, FakeTpm>,
    inbox: TrustInbox,
    store: Store,
    now: Arc<Mutex<Timestamp>>,
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("because it is a time")
}

fn machine(files: &Arc<FakeFiles>) -> Machine {
    machine_with(files, &Arc::new(FakeTpm::absent()))
}

fn machine_with(files: &Arc<FakeFiles>, tpm: &Arc<FakeTpm>) -> Machine {
    machine_of(files, tpm, key_on_disk())
}

/// Nothing is sealed by it, so it may be another one after a restart.
fn key_on_disk() -> MachineKey {
    MachineKey::new(IdentityKey::generate().expect("because the system has randomness"))
}

/// A machine whose key this TPM made, as after an installation: nothing was counted yet.
async fn key_in(tpm: &FakeTpm) -> MachineKey {
    tpm.forget_counter().await.expect("because the TPM works");
    let wrapped = tpm.make_key().await.expect("because the TPM works");
    let point = wrapped.public().point();
    MachineKey::new(IdentityKey::in_tpm(point, tpm.load_key(wrapped).await.expect("because this TPM made it")))
}

fn machine_of(files: &Arc<FakeFiles>, tpm: &Arc<FakeTpm>, key: MachineKey) -> Machine {
    let store = Store::new();
    let mut ports = Ports::new(&store, "trust");
    store.writer().expect("because nobody else writes it").put(MachineKey::ID, key);
    let now = Arc::new(Mutex::new(at("2026-11-21T12:00:00Z")));
    let clock = Arc::clone(&now);
    let clock = Box::new(move || *clock.lock().expect("because no holder panics"));
    let (controller, inbox) = TrustController::new(&mut ports, Arc::clone(files), Arc::clone(tpm), clock);
    let volume = Volume { device: PathBuf::new(), formatted: false };
    store.writer().expect("because nobody else writes it").put(STATE, volume);
    Machine { controller, inbox, store, now }
}

impl Machine {
    async fn ask(&mut self, request: TrustRequest) -> TrustAnswer {
        let inbox = self.inbox.clone();
        let (answer, outcome) = tokio::join!(biased; inbox.ask(request), self.controller.reconcile());
        outcome.expect("because nothing is damaged");
        answer.expect("because the controller answers")
    }
    fn record(&self) -> Option<TrustRecord> {
        self.store.reader::<TrustRecord>().get(TrustRecord::ID)
    }
    fn rollback(&self) -> Option<Rollback> {
        self.store.reader::<Rollback>().get(Rollback::ID)
    }
    fn order(&self) -> Option<Order> {
        self.record().and_then(|record| record.order)
    }
    async fn reconcile_at(&mut self, now: &str) -> Outcome {
        *self.now.lock().expect("because no holder panics") = at(now);
        self.controller.reconcile().await.expect("because nothing is damaged")
    }
}

fn hold(until: &str) -> Order {
    Order {
        action: OrderAction::Hold {},
        until: at(until),
        reason: "the disk is full".to_owned(),
        by: "ada".parse().expect("because it is a name"),
        key: Fingerprint::from_sha256(&[1; 32]),
        given: at("2026-11-21T12:00:00Z"),
    }
}

fn accept(position: AcceptedPosition) -> TrustRequest {
    TrustRequest::Accept { position, proven: false }
}

fn position(epoch: u64, seq: u64, step: u8) -> AcceptedPosition {
    AcceptedPosition {
        epoch: Epoch(epoch),
        seq: Seq(seq),
        step: StepId::from_bytes([step; 32]),
        commit: "c".repeat(40).parse().expect("because it is an id"),
    }
}

#[tokio::test]
async fn an_order_survives_a_restart_and_ends_by_itself() {
    let files = Arc::new(FakeFiles::default());
    let mut first = machine(&files);
    first.ask(TrustRequest::Give(hold("2026-11-21T13:00:00Z"))).await.expect("because its form is good");
    assert_eq!(files.lasting("/state/machined/trust.json"), Some(Lasting::Durable));
    let mut second = machine(&files);
    let left = second.reconcile_at("2026-11-21T12:59:00Z").await;
    assert_eq!(left, Outcome::Again(Duration::from_secs(60)));
    assert_eq!(second.order(), Some(hold("2026-11-21T13:00:00Z")));
    assert_eq!(second.reconcile_at("2026-11-21T13:00:00Z").await, Outcome::Done);
    assert_eq!(second.order(), None);
    let mut third = machine(&files);
    third.reconcile_at("2026-11-21T12:30:00Z").await;
    assert_eq!(third.order(), None, "a clock that goes back brings no order back");
}

#[tokio::test]
async fn an_order_without_an_end_in_time_is_refused_and_the_old_one_stays() {
    let files = Arc::new(FakeFiles::default());
    let mut machine = machine(&files);
    machine.ask(TrustRequest::Give(hold("2026-11-22T00:00:00Z"))).await.expect("because its form is good");
    let refused = machine.ask(TrustRequest::Give(hold("2026-12-22T00:00:00Z"))).await;
    assert!(matches!(refused, Err(TrustError::Form(OrderForm::Long { .. }))), "{refused:?}");
    assert_eq!(machine.order(), Some(hold("2026-11-22T00:00:00Z")));
    let ended = machine.ask(TrustRequest::Resume).await.expect("because anybody who may may resume");
    assert_eq!((ended.order.is_some(), machine.order()), (true, None));
}

#[tokio::test]
async fn the_accepted_position_only_moves_forward() {
    let files = Arc::new(FakeFiles::default());
    let mut machine = machine(&files);
    for (epoch, seq, step) in [(0, 4, 4), (0, 4, 4), (0, 7, 7), (1, 2, 8)] {
        machine.ask(accept(position(epoch, seq, step))).await.expect("because it is later or the same");
    }
    for (epoch, seq, step) in [(1, 1, 1), (0, 9, 9), (1, 2, 9)] {
        let refused = machine.ask(accept(position(epoch, seq, step))).await;
        assert!(matches!(refused, Err(TrustError::Older { .. })), "({epoch}, {seq}) was taken");
    }
    assert_eq!(machine.record().and_then(|record| record.accepted), Some(position(1, 2, 8)));
}

#[tokio::test]
async fn before_the_state_volume_is_there_nothing_is_taken() {
    let files = Arc::new(FakeFiles::default());
    let mut machine = machine(&files);
    machine.controller.volumes = Store::new().reader();
    let refused = machine.ask(TrustRequest::Resume).await;
    assert!(matches!(refused, Err(TrustError::NotReady)), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_record_is_said_and_stops_nobody() {
    let files = Arc::new(FakeFiles::default());
    files.put("/state/machined/trust.json", "{");
    let mut machine = machine(&files);
    assert!(matches!(machine.controller.reconcile().await, Err(TrustRecordError::Json { .. })));
    assert_eq!(machine.record(), Some(TrustRecord::default()));
}

#[tokio::test]
async fn without_a_tpm_the_file_is_what_releases_before_wrote() {
    let files = Arc::new(FakeFiles::default());
    let mut machine = machine(&files);
    machine.ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    let text = files.text("/state/machined/trust.json").expect("because it was written");
    assert!(!text.contains("version") && !text.contains("count"), "{text}");
    assert_eq!(machine.rollback(), Some(Rollback::Undetectable));
}

#[tokio::test]
async fn the_counter_grows_with_each_move_and_with_nothing_else() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let mut machine = machine_with(&files, &tpm);
    machine.ask(TrustRequest::Resume).await.expect("because anybody who may may resume");
    let begun = tpm.value().expect("because counting began");
    for (seq, step) in [(1, 1), (1, 1), (2, 2)] {
        machine.ask(accept(position(0, seq, step))).await.expect("because it is later or the same");
    }
    machine.ask(TrustRequest::Give(hold("2026-11-21T13:00:00Z"))).await.expect("because its form is good");
    let twin = AcceptedPosition { commit: "d".repeat(40).parse().expect("because it is an id"), ..position(0, 2, 2) };
    machine.ask(accept(twin)).await.expect("because it is the same step");
    assert_eq!(tpm.value(), Some(begun + 2), "two moves: a repeated step, a hold and a twin wear nothing");
    let mut restarted = machine_with(&files, &tpm);
    restarted.controller.reconcile().await.expect("because nothing is damaged");
    assert_eq!((tpm.value(), restarted.rollback()), (Some(begun + 2), Some(Rollback::Newest)));
}

#[tokio::test]
async fn t45_an_old_record_put_back_moves_nothing_until_the_newest_is_proven() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let mut first = machine_with(&files, &tpm);
    first.ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    let old = files.text("/state/machined/trust.json").expect("because it was written");
    for seq in 5..=7 {
        first.ask(accept(position(0, seq, seq as u8))).await.expect("because it is later");
    }
    files.put("/state/machined/trust.json", &old);
    let mut second = machine_with(&files, &tpm);
    second.controller.reconcile().await.expect("because the record is whole");
    let Some(Rollback::Doubted(doubt)) = second.rollback() else { panic!("nothing was noticed") };
    assert_eq!(doubt.reason(), "FreshnessUnproven");
    assert!(doubt.to_string().contains("3 accepted moves"), "{doubt}");
    let refused = second.ask(accept(position(0, 5, 9))).await;
    assert!(matches!(refused, Err(TrustError::Doubted(_))), "a fork was accepted: {refused:?}");
    second.ask(TrustRequest::Give(hold("2026-11-21T13:00:00Z"))).await.expect("because a hold stops more");
    let mut third = machine_with(&files, &tpm);
    third.controller.reconcile().await.expect("because the record is whole");
    assert!(matches!(third.rollback(), Some(Rollback::Doubted(_))), "writing an order hid the old copy");
    let proof = TrustRequest::Accept { position: position(0, 7, 7), proven: true };
    third.ask(proof).await.expect("because it is proven");
    assert_eq!(third.rollback(), Some(Rollback::Newest));
    third.ask(accept(position(0, 8, 8))).await.expect("because it moves again");
    // The copy is as old as before.
    files.put("/state/machined/trust.json", &old);
    let mut fourth = machine_with(&files, &tpm);
    fourth.controller.reconcile().await.expect("because the record is whole");
    assert!(matches!(fourth.rollback(), Some(Rollback::Doubted(_))));
}

#[tokio::test]
async fn a_person_vouches_only_where_something_is_doubted_and_never_for_less() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let mut machine = machine_with(&files, &tpm);
    machine.ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    let early = machine.ask(TrustRequest::Vouch(position(0, 9, 9))).await;
    assert!(matches!(early, Err(TrustError::NoDoubt)), "an admin could stop a healthy machine: {early:?}");
    tpm.clear();
    let mut cleared = machine_with(&files, &tpm);
    cleared.controller.reconcile().await.expect("because the record is whole");
    assert_eq!(cleared.rollback(), Some(Rollback::Doubted(Doubt::CounterLost)));
    let less = cleared.ask(TrustRequest::Vouch(position(0, 3, 3))).await;
    assert!(matches!(less, Err(TrustError::Older { .. })), "{less:?}");
    cleared.ask(TrustRequest::Vouch(position(0, 6, 6))).await.expect("because the counter is lost");
    assert_eq!(cleared.record().and_then(|record| record.accepted), Some(position(0, 6, 6)));
    assert_eq!(cleared.rollback(), Some(Rollback::Newest));
}

#[tokio::test]
async fn a_tpm_that_is_switched_off_does_not_hide_an_old_copy() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    machine_with(&files, &tpm).ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    let mut without = machine(&files);
    without.controller.reconcile().await.expect("because the record is whole");
    assert_eq!(without.rollback(), Some(Rollback::Doubted(Doubt::TpmGone)));
}

#[tokio::test]
async fn a_tpm_that_fails_stops_moves_until_it_answers() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let mut machine = machine_with(&files, &tpm);
    machine.ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    tpm.fail(true);
    let mut restarted = machine_with(&files, &tpm);
    assert!(restarted.controller.reconcile().await.is_err());
    assert!(matches!(restarted.rollback(), Some(Rollback::Doubted(Doubt::TpmFails { .. }))));
    assert_eq!(restarted.record().and_then(|record| record.accepted), Some(position(0, 4, 4)), "what runs is known");
    tpm.fail(false);
    restarted.controller.reconcile().await.expect("because the TPM answers again");
    assert_eq!(restarted.rollback(), Some(Rollback::Newest));
}

#[tokio::test]
async fn a_record_of_a_newer_release_is_neither_read_nor_replaced() {
    let files = Arc::new(FakeFiles::default());
    let newer = r#"{"version":4,"everything":"else"}"#;
    files.put("/state/machined/trust.json", newer);
    let mut machine = machine_with(&files, &Arc::new(FakeTpm::new()));
    machine.controller.reconcile().await.expect("because it is no fault");
    let Some(Rollback::Doubted(doubt)) = machine.rollback() else { panic!("nothing was said") };
    assert_eq!(doubt.reason(), "NewerState");
    for request in [accept(position(0, 4, 4)), TrustRequest::Give(hold("2026-11-21T13:00:00Z"))] {
        assert!(matches!(machine.ask(request).await, Err(TrustError::Doubted(Doubt::Newer { version: 4 }))));
    }
    assert_eq!(files.text("/state/machined/trust.json").as_deref(), Some(newer));
}

/// Power is cut before or after each thing that the disk or the TPM does while counting begins and three steps are accepted. The machine
/// always starts again knowing that its record is the newest, and goes on.
#[tokio::test]
async fn t47_power_cut_at_any_write_or_count_leaves_a_record_that_counts() {
    const OPERATIONS: u32 = 9;
    for (cut, in_tpm) in (0..OPERATIONS * 2).flat_map(|cut| [(cut, false), (cut, true)]) {
        let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
        let key = if in_tpm { key_in(&tpm).await } else { key_on_disk() };
        let power = Arc::new(Power::default());
        tpm.powered_by(&power);
        files.powered_by(&power);
        power.cut(cut / 2, cut % 2 == 1);
        let mut machine = machine_of(&files, &tpm, key.clone());
        let mut told = 0;
        for seq in 1..=3 {
            let inbox = machine.inbox.clone();
            let ask = inbox.ask(accept(position(0, seq, seq as u8)));
            let (answer, _outcome) = tokio::join!(biased; ask, machine.controller.reconcile());
            match answer.expect("because the controller answers") {
                Ok(_) => told = seq,
                Err(_) => break,
            }
        }
        assert!(power.is_cut(), "there are fewer than {OPERATIONS} operations, the test cuts nothing at {cut}");
        power.back();
        let mut again = machine_of(&files, &tpm, key);
        again.controller.reconcile().await.expect("because the record is whole");
        assert_eq!(again.rollback(), Some(Rollback::Newest), "stuck after a cut at operation {cut}");
        let known = again.record().and_then(|record| record.accepted).map_or(0, |position| position.seq.0);
        assert!(known >= told, "step {told} was told and {known} is known after a cut at {cut}");
        again.ask(accept(position(0, 9, 9))).await.expect("because it goes on");
    }
}

const FILE: &str = "/state/machined/trust.json";

async fn doubted(files: &Arc<FakeFiles>, tpm: &Arc<FakeTpm>, key: &MachineKey) -> Machine {
    let mut machine = machine_of(files, tpm, key.clone());
    // What is not ours is said once, as an error.
    let _said = machine.controller.reconcile().await;
    let Some(Rollback::Doubted(doubt)) = machine.rollback() else { panic!("nothing was noticed") };
    assert_eq!(doubt.reason(), "FreshnessUnproven");
    let refused = machine.ask(accept(position(0, 9, 9))).await;
    assert!(matches!(refused, Err(TrustError::Doubted(_))), "a fork was accepted: {refused:?}");
    machine
}

#[tokio::test]
async fn a_record_sealed_in_the_tpm_is_there_after_a_restart_and_goes_on() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let key = key_in(&tpm).await;
    let mut first = machine_of(&files, &tpm, key.clone());
    first.ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    let mut second = machine_of(&files, &tpm, key);
    second.ask(accept(position(0, 5, 5))).await.expect("because it is later");
    assert_eq!(second.rollback(), Some(Rollback::Newest));
    assert_eq!(second.record().and_then(|record| record.accepted), Some(position(0, 5, 5)));
}

#[tokio::test]
async fn t45_a_record_that_somebody_else_made_moves_nothing() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let key = key_in(&tpm).await;
    let mut first = machine_of(&files, &tpm, key.clone());
    for seq in 1..=3 {
        first.ask(accept(position(0, seq, seq as u8))).await.expect("because it is later");
    }
    let own = files.text(FILE).expect("because it was written");
    // Whoever writes the disk knows the counter, and brings an older position with it: without a seal, with the seal of another machine,
    // and with the own seal around other words.
    let older = TrustRecord {
        accepted: Some(position(0, 1, 1)),
        version: Some(TRUST_RECORD_VERSION),
        count: first.record().and_then(|record| record.count),
        ..TrustRecord::default()
    };
    let plain = serde_json::to_string(&older).expect("because its map keys are strings");
    let other = key_in(&FakeTpm::other()).await;
    let foreign = file::write(&older, &other).await.expect("because the TPM signs");
    let changed = own.replace(r#"\"seq\":3"#, r#"\"seq\":1"#);
    assert_ne!(changed, own, "the test changes nothing");
    for forged in [plain, String::from_utf8(foreign).expect("because it is JSON"), changed, "{}".to_owned()] {
        files.put(FILE, &forged);
        let mut machine = doubted(&files, &tpm, &key).await;
        // An order is taken, sealed, and hides nothing.
        machine.ask(TrustRequest::Give(hold("2026-11-21T13:00:00Z"))).await.expect("because a hold stops more");
        doubted(&files, &tpm, &key).await;
    }
    files.remove(FILE);
    let mut removed = doubted(&files, &tpm, &key).await;
    removed.ask(TrustRequest::Vouch(position(0, 3, 3))).await.expect("because it is doubted");
    removed.ask(accept(position(0, 4, 4))).await.expect("because it goes on");
    assert_eq!(removed.rollback(), Some(Rollback::Newest));
}

#[tokio::test]
async fn while_the_tpm_does_not_sign_nothing_moves_and_nothing_is_lost() {
    let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
    let key = key_in(&tpm).await;
    let mut machine = machine_of(&files, &tpm, key);
    machine.ask(accept(position(0, 4, 4))).await.expect("because it is the first");
    let (before, file) = (machine.record(), files.text(FILE));
    tpm.fail(true);
    let refused = machine.ask(accept(position(0, 5, 5))).await;
    assert!(matches!(refused, Err(TrustError::Seal(_))), "{refused:?}");
    assert_eq!((machine.record(), files.text(FILE)), (before, file));
    tpm.fail(false);
    machine.ask(accept(position(0, 5, 5))).await.expect("because the TPM signs again");
}
