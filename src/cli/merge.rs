//! Joining sorted streams of paths: which of several sides stand at the next path.
//!
//! A local tree, a remote tree and the state of the last push come in the same order
//! ([`walk_order`]), each as a stream with a bounded buffer. Side by side they are compared without ever
//! holding a whole tree.

use std::cmp::Ordering;

use tokio::sync::mpsc;

use crate::types::path::walk_order;
use crate::types::{Error, Result};

/// Elements that wait in a stream's buffer.
pub(crate) const STREAM_ITEMS_MAX: usize = 1_024;

/// Something that has a place in the order of a walk.
pub(crate) trait HasPath {
    /// Slash-separated, relative to the compared directories.
    fn path(&self) -> &str;
}

/// Which sides stand at the smallest path; `None` when all have ended.
pub(crate) fn least<const N: usize>(heads: [Option<&str>; N]) -> Option<[bool; N]> {
    let least = heads.iter().flatten().copied().min_by(|a, b| walk_order(a, b))?;
    Some(heads.map(|head| head == Some(least)))
}

/// Whether `path` is `directory` or lies below it; everything lies below the empty path.
pub(crate) fn is_within(path: &str, directory: &str) -> bool {
    match path.strip_prefix(directory) {
        Some(rest) => directory.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// `name` below `directory`, which may be empty.
pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_string() } else { format!("{directory}/{name}") }
}

/// The consuming end of a sorted stream.
pub(crate) struct Sorted<T> {
    receiver: Option<mpsc::Receiver<Result<T>>>,
    head: Option<T>,
    last: Option<String>,
    what: &'static str,
}

impl<T: HasPath> Sorted<T> {
    /// A stream and the end that feeds it; `what` names it in errors.
    pub(crate) fn channel(what: &'static str) -> (mpsc::Sender<Result<T>>, Self) {
        let (sender, receiver) = mpsc::channel(STREAM_ITEMS_MAX);
        (sender, Self { receiver: Some(receiver), head: None, last: None, what })
    }

    /// A stream that has ended already.
    pub(crate) fn empty(what: &'static str) -> Self {
        Self { receiver: None, head: None, last: None, what }
    }

    /// A stream of one element.
    pub(crate) fn once(item: T, what: &'static str) -> Self {
        Self { receiver: None, head: Some(item), last: None, what }
    }

    /// Waits until the head is known. A stream out of order would make things look missing, so it is an error.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        if self.head.is_some() {
            return Ok(());
        }
        let Some(receiver) = &mut self.receiver else { return Ok(()) };
        match receiver.recv().await {
            None => self.receiver = None,
            Some(Err(error)) => {
                self.receiver = None;
                return Err(error);
            }
            Some(Ok(item)) => {
                if let Some(last) = &self.last
                    && walk_order(last, item.path()) != Ordering::Less
                {
                    let (what, path) = (self.what, item.path());
                    return Err(Error::internal(format!("{what} came out of order: {path:?} after {last:?}")));
                }
                self.last = Some(item.path().to_string());
                self.head = Some(item);
            }
        }
        Ok(())
    }

    /// The head's path, after [`Sorted::fill`].
    pub(crate) fn path(&self) -> Option<&str> {
        self.head.as_ref().map(HasPath::path)
    }

    /// Takes the head if `wanted`.
    pub(crate) fn take_if(&mut self, wanted: bool) -> Option<T> {
        if wanted { self.head.take() } else { None }
    }

    /// The next element.
    pub(crate) async fn next(&mut self) -> Result<Option<T>> {
        self.fill().await?;
        Ok(self.head.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    impl HasPath for String {
        fn path(&self) -> &str {
            self
        }
    }

    fn stream(items: Vec<String>) -> Sorted<String> {
        let (sender, sorted) = Sorted::channel("a test");
        tokio::spawn(async move {
            for item in items {
                if sender.send(Ok(item)).await.is_err() {
                    break;
                }
            }
        });
        sorted
    }

    #[tokio::test]
    async fn out_of_order_is_an_error() {
        let mut sorted = stream(vec!["b".into(), "a".into()]);
        assert_eq!(sorted.next().await.unwrap().as_deref(), Some("b"));
        assert!(sorted.next().await.is_err());
    }

    #[test]
    fn within_and_join() {
        assert!(is_within("a/b", "a") && is_within("a", "a") && is_within("a", ""));
        assert!(!is_within("ab", "a") && !is_within("a", "a/b"));
        assert_eq!((join("", "x"), join("a", "x")), ("x".into(), "a/x".into()));
    }

    proptest! {
        #[test]
        fn a_join_meets_every_path_of_every_side_once_and_in_order(
            sides in proptest::array::uniform3(proptest::collection::btree_set("[a-b.-]{1,2}(/[a-b]{1,2}){0,2}", 0..12))
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let met = runtime.block_on(async {
                let sorted = |side: &BTreeSet<String>| {
                    let mut items: Vec<_> = side.iter().cloned().collect();
                    items.sort_by(|a, b| walk_order(a, b));
                    stream(items)
                };
                let mut streams = [sorted(&sides[0]), sorted(&sides[1]), sorted(&sides[2])];
                let mut met = Vec::new();
                loop {
                    for stream in &mut streams {
                        stream.fill().await.unwrap();
                    }
                    let Some(here) = least([streams[0].path(), streams[1].path(), streams[2].path()]) else { break };
                    let taken: Vec<_> = streams.iter_mut().zip(here).map(|(stream, here)| stream.take_if(here)).collect();
                    met.push(taken);
                }
                met
            });
            for (index, side) in sides.iter().enumerate() {
                let seen: BTreeSet<_> = met.iter().filter_map(|row| row[index].clone()).collect();
                prop_assert_eq!(&seen, side);
            }
            let order: Vec<_> = met.iter().map(|row| row.iter().flatten().next().unwrap().clone()).collect();
            prop_assert!(order.windows(2).all(|pair| walk_order(&pair[0], &pair[1]) == Ordering::Less));
            prop_assert!(met.iter().all(|row| row.iter().flatten().collect::<BTreeSet<_>>().len() == 1));
        }
    }
}
