//! The commit loop: seals batches, keeps a few durable writes in flight, and lands them in order.
//!
//! A batch lands when its own write and those of all batches before it are durable. Landing folds
//! its records into the index, then settles its outcome; so nobody sees what a crash could take
//! back, and nobody hears of a record before the index shows it. FORMAT.md, "Commit".
//!
//! Failure: the first failed write or sync halts the store; whatever is on its way gets
//! `Device`, whatever comes later `Halted`. A batch that finds no place on a full disk fails
//! alone, with `Full`.

use crate::buffer::Buffer;
use crate::core::{Core, Phase};
use crate::device::{Device, is_full};
use crate::format::Location;
use crate::index::apply::Logged;
use crate::log::queue::{Draft, Entry, Place};
use crate::log::segments::begin_segment;
use crate::options::Sabotage;
use crate::types::{Lsn, UnixMillis};
use crate::wait::{Failure, Landed, Outcome};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// So much is worth a flush of its own: more would take longer to write, and gain nothing.
const GATHER_BYTES_MAX: usize = 64 * 1024;

type Writing = Pin<Box<dyn Future<Output = (io::Result<()>, Buffer)>>>;

/// A batch in flight.
struct Flight {
    writing: Option<Writing>,
    done: Option<(io::Result<()>, Buffer)>,
    entries: Vec<Entry>,
    outcome: Rc<Outcome>,
    location: Location,
    first_lsn: Lsn,
    sealed: UnixMillis,
    padded_bytes: u64,
}

/// Runs until the store is closed or halts, and everything that was queued has landed or failed.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    let mut flights = VecDeque::new();
    // Records in the batch that was launched last.
    let mut company = 0;
    loop {
        if flights.is_empty() && company > 1 {
            gather(core).await;
        }
        launch_all(core, &mut flights).await;
        company = flights.back().map_or(company, |flight: &Flight| flight.entries.len());
        if flights.is_empty() {
            if core.phase.get() != Phase::Open && core.queue.borrow().is_empty() {
                return;
            }
            core.work.wait().await;
            continue;
        }
        wait_for_news(core, &mut flights).await;
        land_all(core, &mut flights);
    }
}

/// Lets a small batch find company before it starts on an idle log: a flush costs the host far more
/// than a small record does. Only where the last batch had company is there any to expect; a lone
/// writer never waits.
async fn gather<D: Device>(core: &Rc<Core<D>>) {
    let worth_it = {
        let queue = core.queue.borrow();
        !queue.is_empty() && queue.waiting_bytes() < GATHER_BYTES_MAX
    };
    if worth_it && !core.options.commit_window.is_zero() && core.phase.get() == Phase::Open {
        core.device.sleep(core.options.commit_window).await;
    }
}

async fn launch_all<D: Device>(core: &Rc<Core<D>>, flights: &mut VecDeque<Flight>) {
    while may_launch(core, flights.len()) {
        let Some(padded) = core.queue.borrow().next_padded_bytes() else { return };
        if let Phase::Halted = core.phase.get() {
            fail_queue(core, &Failure::Halted);
            return;
        }
        match make_room(core, padded as u64).await {
            Ok(()) => {
                // What came in while a segment was made belongs to the same batch; it may have
                // outgrown the room.
                if !has_room(core) {
                    continue;
                }
                let Some(draft) = core.queue.borrow_mut().take() else { return };
                flights.push_back(launch(core, draft));
            }
            Err(error) if is_full(&error) => {
                let Some(draft) = core.queue.borrow_mut().take() else { return };
                core.refused_for_space.set(core.refused_for_space.get() + 1);
                fail(core, draft.entries, draft.buffer, &draft.outcome, full(core));
            }
            Err(error) => {
                core.halt(&error);
                fail_queue(core, &Failure::Device(error.to_string()));
            }
        }
    }
}

fn full<D: Device>(core: &Core<D>) -> Failure {
    Failure::Full(core.device.place())
}

fn has_room<D: Device>(core: &Core<D>) -> bool {
    let padded = core.queue.borrow().next_padded_bytes().unwrap_or(0);
    padded as u64 <= core.segments.borrow().active_room()
}

fn may_launch<D: Device>(core: &Core<D>, in_flight: usize) -> bool {
    let queue = core.queue.borrow();
    match in_flight {
        0 => !queue.is_empty(),
        n if n >= core.options.chains_in_flight => false,
        _ => queue.waiting_bytes() >= core.options.batch_bytes_eager,
    }
}

/// Sees to it that the active segment takes `bytes` more, taking the next one into use if not.
async fn make_room<D: Device>(core: &Rc<Core<D>>, bytes: u64) -> io::Result<()> {
    if bytes <= core.segments.borrow().active_room() {
        return Ok(());
    }
    let id = core.segments.borrow().next_id();
    begin_segment(core, id).await
}

fn launch<D: Device>(core: &Rc<Core<D>>, mut draft: Draft) -> Flight {
    let mut segments = core.segments.borrow_mut();
    let active = segments.active.as_mut().expect("room was made in the active segment");
    let first_lsn = core.next_lsn.get();
    let header = draft.seal(&Place {
        shard: core.options.shard,
        segment: active.id,
        run: core.run.get(),
        first_lsn,
        durable: core.durable.get(),
        now: core.device.now(),
        salt: active.salt,
    });
    core.next_lsn.set(header.next_lsn());
    let location = Location::new(active.id, active.end);
    let offset = active.end;
    let padded_bytes = draft.buffer.len() as u64;
    active.end += padded_bytes;
    let file = active.file.clone();
    drop(segments);
    if core.options.sabotage == Some(Sabotage::AcknowledgeEarly) {
        draft.outcome.settle(Ok(Landed { location, first_lsn }));
    }
    let writer = Rc::clone(core);
    let buffer = draft.buffer;
    let mut writing: Writing = Box::pin(async move {
        if writer.options.sabotage == Some(Sabotage::SkipSync) {
            return writer.device.write(&file, offset, buffer).await;
        }
        writer.device.write_durably(&file, offset, buffer).await
    });
    // The first poll starts the write.
    let mut context = std::task::Context::from_waker(Waker::noop());
    let (writing, done) = match writing.as_mut().poll(&mut context) {
        Poll::Ready(done) => (None, Some(done)),
        Poll::Pending => (Some(writing), None),
    };
    Flight {
        writing,
        done,
        entries: draft.entries,
        outcome: draft.outcome,
        location,
        first_lsn,
        sealed: header.sealed,
        padded_bytes,
    }
}

/// Until the oldest batch is done, or another one may start.
async fn wait_for_news<D: Device>(core: &Core<D>, flights: &mut VecDeque<Flight>) {
    poll_fn(|context| {
        for flight in flights.iter_mut() {
            let Some(writing) = &mut flight.writing else { continue };
            if let Poll::Ready(done) = writing.as_mut().poll(context) {
                flight.writing = None;
                flight.done = Some(done);
            }
        }
        let oldest_done = flights.front().is_some_and(|flight| flight.done.is_some());
        if oldest_done || may_launch(core, flights.len()) {
            return Poll::Ready(());
        }
        // The bell only has to reach us when there is enough for another batch.
        while core.work.poll_rung(context.waker()) {
            if may_launch(core, flights.len()) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

fn land_all<D: Device>(core: &Core<D>, flights: &mut VecDeque<Flight>) {
    while let Some(mut flight) = flights.pop_front() {
        let Some((result, buffer)) = flight.done.take() else {
            flights.push_front(flight);
            return;
        };
        match result {
            Ok(()) if core.phase.get() != Phase::Halted => land(core, flight, buffer),
            Ok(()) => fail(core, flight.entries, buffer, &flight.outcome, Failure::Halted),
            Err(error) => {
                core.halt(&error);
                let failure = Failure::Device(error.to_string());
                fail(core, flight.entries, buffer, &flight.outcome, failure.clone());
                fail_queue(core, &failure);
            }
        }
    }
}

fn land<D: Device>(core: &Core<D>, flight: Flight, buffer: Buffer) {
    let mut index = core.index.borrow_mut();
    let live_before = index.counters.live_bytes;
    for (number, entry) in flight.entries.iter().enumerate() {
        let offset = flight.location.offset() + u64::from(entry.offset);
        index.apply(Logged {
            lsn: Lsn(flight.first_lsn.0 + number as u64),
            time: flight.sealed,
            location: Location::new(flight.location.segment, offset),
            record_bytes: u32::try_from(entry.header.record_bytes()).unwrap_or(u32::MAX),
            record: &entry.record,
        });
    }
    index.counters.count_batch(flight.location.offset(), flight.padded_bytes);
    let given_back = live_before.saturating_sub(index.counters.live_bytes);
    drop(index);
    core.note_given_back(given_back);
    core.durable.set(Lsn(flight.first_lsn.0 + flight.entries.len() as u64 - 1));
    core.note_landed(flight.location, flight.padded_bytes);
    core.queue.borrow_mut().finished(&flight.entries, buffer);
    for entry in &flight.entries {
        core.watchers.record_applied(&entry.record);
    }
    // Locks and reservations go before anyone is told, so that whoever is told may go on at once.
    drop(flight.entries);
    let landed = Landed { location: flight.location, first_lsn: flight.first_lsn };
    if !flight.outcome.is_settled() {
        flight.outcome.settle(Ok(landed));
    }
    core.landed.ring();
}

fn fail<D: Device>(
    core: &Core<D>,
    entries: Vec<Entry>,
    buffer: Buffer,
    outcome: &Outcome,
    failure: Failure,
) {
    core.queue.borrow_mut().finished(&entries, buffer);
    drop(entries);
    if !outcome.is_settled() {
        outcome.settle(Err(failure));
    }
    core.landed.ring();
}

fn fail_queue<D: Device>(core: &Core<D>, failure: &Failure) {
    loop {
        let Some(draft) = core.queue.borrow_mut().take() else { return };
        fail(core, draft.entries, draft.buffer, &draft.outcome, failure.clone());
    }
}
