//! Reading ahead, in order: each read is begun as soon as there is room for it.
//!
//! Not `StreamExt::buffered`: that begins others only when nothing is ready, so that all of them
//! are begun together and the disk stands idle while what they have brought is worked off. A
//! listing of 10,000 messages took its reads and its work one after the other, and twice as long.

use futures_util::future::{MaybeDone, maybe_done};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::iter::Fuse;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) struct Ahead<I: Iterator<Item: Future>> {
    source: Fuse<I>,
    /// The oldest in front.
    begun: VecDeque<MaybeDone<Pin<Box<I::Item>>>>,
    begun_max: usize,
}

impl<I: Iterator<Item: Future>> Ahead<I> {
    pub(super) fn new(source: I, begun_max: usize) -> Ahead<I> {
        Ahead { source: source.fuse(), begun: VecDeque::with_capacity(begun_max), begun_max }
    }

    /// The output of the next future, in the order of the source.
    pub(super) async fn next(&mut self) -> Option<<I::Item as Future>::Output> {
        poll_fn(|task| self.poll(task)).await
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<<I::Item as Future>::Output>> {
        while self.begun.len() < self.begun_max
            && let Some(future) = self.source.next()
        {
            self.begun.push_back(maybe_done(Box::pin(future)));
        }
        for future in &mut self.begun {
            // What is done stays done.
            let _ = Pin::new(future).poll(task);
        }
        match self.begun.front_mut().map(|first| Pin::new(first).take_output()) {
            None => Poll::Ready(None),
            Some(None) => Poll::Pending,
            Some(output) => {
                self.begun.pop_front();
                Poll::Ready(output)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::task::Waker;
    use tokio::sync::oneshot;

    #[test]
    fn what_there_is_room_for_is_begun_while_others_are_ready_and_order_is_kept() {
        let begun = RefCell::new(Vec::new());
        let (answers, asked): (Vec<_>, Vec<_>) = (0..6).map(|_| oneshot::channel::<u32>()).unzip();
        let reads = asked.into_iter().enumerate().map(|(number, answer)| {
            let begun = &begun;
            async move {
                begun.borrow_mut().push(number);
                answer.await.unwrap()
            }
        });
        let mut ahead = Ahead::new(reads, 3);
        let mut task = Context::from_waker(Waker::noop());
        let mut answers = answers.into_iter();
        assert_eq!(ahead.poll(&mut task), Poll::Pending);
        assert_eq!(*begun.borrow(), [0, 1, 2]);
        let (first, second) = (answers.next().unwrap(), answers.next().unwrap());
        second.send(11).unwrap();
        assert_eq!(ahead.poll(&mut task), Poll::Pending, "the second waits for the first");
        first.send(10).unwrap();
        assert_eq!(ahead.poll(&mut task), Poll::Ready(Some(10)));
        // The second is ready, and still the fourth is begun.
        assert_eq!(ahead.poll(&mut task), Poll::Ready(Some(11)));
        assert_eq!(*begun.borrow(), [0, 1, 2, 3]);
        for (number, answer) in (12..).zip(answers) {
            answer.send(number).unwrap();
            assert_eq!(ahead.poll(&mut task), Poll::Ready(Some(number)));
        }
        assert_eq!(ahead.poll(&mut task), Poll::Ready(None));
        assert_eq!(*begun.borrow(), [0, 1, 2, 3, 4, 5]);
    }
}
