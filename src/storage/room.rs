//! Room for what is on its way: uploads side by side must not take the reserve that deletes, the index and the journal
//! need.
//!
//! The file system counts what was written. What was announced and is not written yet is counted here, as *promises*; an
//! upload of unknown size promises a piece at a time. The file system is asked on a thread that may wait for a disk, at
//! most once in `SEEN_FOR` unless the answer decides, and what was written since is taken off until the next time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::Layout;
use crate::types::{Error, ErrorCode, Result};
use parking_lot::{Mutex, MutexGuard};

/// How long an answer of the file system is good for.
const SEEN_FOR: Duration = Duration::from_millis(500);
/// What an upload of unknown size needs at its start, and promises each time that it has come so far.
pub const UNKNOWN_SIZE_BYTES: u64 = 1 << 20;
/// The room is looked at anew each time that as many bytes have come: others than uploads take some too.
const LOOK_AGAIN_BYTES: u64 = 8 << 20;

/// The room of one data directory.
#[derive(Debug)]
pub struct Room {
    layout: Arc<Layout>,
    /// What people call this server.
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the file system was asked, and what new objects might take then.
    seen: Option<(Instant, u64)>,
    /// Bytes that were written since.
    written: u64,
    /// Bytes that are still to come.
    promised: u64,
}

impl State {
    fn free(&self) -> Option<u64> {
        self.seen.map(|(_, free)| free.saturating_sub(self.written))
    }
}

impl Room {
    /// Of a directory.
    pub fn new(layout: Arc<Layout>, name: String) -> Arc<Self> {
        Arc::new(Self { layout, name, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Bytes of the file system, and bytes of it that new objects may take, asked now.
    pub async fn look(&self) -> Result<(u64, u64)> {
        // What is written while the file system answers may be in its answer or not.
        let before = self.state().written;
        let layout = self.layout.clone();
        let look = tokio::task::spawn_blocking(move || layout.room());
        let (capacity, free) =
            look.await.map_err(|error| Error::internal("a look at the disk panicked").with_source(error))??;
        let mut state = self.state();
        state.seen = Some((Instant::now(), free));
        state.written = state.written.saturating_sub(before);
        Ok((capacity, free))
    }

    /// Room for an upload of so many bytes, until the promise is dropped.
    pub async fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise> {
        let mut promise = Promise { room: self.clone(), left: 0, unchecked: 0 };
        promise.more(bytes).await?;
        Ok(promise)
    }

    /// Promises more, if that is there beside all other promises.
    fn try_promise(&self, bytes: u64) -> std::result::Result<(), u64> {
        let mut state = self.state();
        let free = state.free().unwrap_or(0).saturating_sub(state.promised);
        if free == 0 || bytes > free {
            return Err(free);
        }
        state.promised += bytes;
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        self.state().seen.is_some_and(|(at, _)| at.elapsed() < SEEN_FOR)
    }
}

/// Room that is kept for an upload.
#[derive(Debug)]
pub struct Promise {
    room: Arc<Room>,
    /// Bytes that are still to come.
    left: u64,
    /// Bytes that have come since the file system was asked for this upload.
    unchecked: u64,
}

impl Promise {
    /// Room for so many bytes more.
    pub async fn more(&mut self, bytes: u64) -> Result<()> {
        let asked = !self.room.is_fresh();
        if asked {
            self.room.look().await?;
        }
        let mut outcome = self.room.try_promise(bytes);
        if outcome.is_err() && !asked {
            // Something may have been deleted since.
            self.room.look().await?;
            outcome = self.room.try_promise(bytes);
        }
        outcome.map_err(|free| {
            let message = format!("{} has room for {free} bytes, the upload needs {bytes}", self.room.name);
            Error::new(ErrorCode::OutOfSpace, message)
        })?;
        self.left += bytes;
        Ok(())
    }

    /// Before so many bytes are written: they are on the disk from now on, and there must still be room for the rest.
    pub async fn write(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.left {
            self.more(UNKNOWN_SIZE_BYTES.max(bytes - self.left)).await?;
        }
        self.left -= bytes;
        {
            let mut state = self.room.state();
            state.promised -= bytes;
            state.written += bytes;
        }
        self.unchecked += bytes;
        if self.unchecked >= LOOK_AGAIN_BYTES {
            self.unchecked = 0;
            let (_, free) = self.room.look().await?;
            if free == 0 || self.left > free {
                let (name, left) = (&self.room.name, self.left);
                let message = format!("{name} has room for {free} bytes, the upload needs {left} more");
                return Err(Error::new(ErrorCode::OutOfSpace, message));
            }
        }
        Ok(())
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.room.state().promised -= self.left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn room() -> (tempfile::TempDir, Arc<Room>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let room = Room::new(Arc::new(layout), "here".into());
        let (_, free) = room.look().await.unwrap();
        (dir, room, free)
    }

    #[tokio::test]
    async fn what_is_promised_to_one_is_not_promised_to_another() {
        let (_dir, room, free) = room().await;
        // Other programs use this disk too, so with some distance.
        let most = free / 10 * 9;
        let first = room.promise(most).await.unwrap();
        let refused = room.promise(free / 5).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::OutOfSpace);
        assert!(refused.message().starts_with("here has room for "), "{refused}");
        drop(room.promise(4_096).await.unwrap());
        drop(first);
        drop(room.promise(most).await.unwrap());
        assert_eq!(room.state().promised, 0);
    }

    #[tokio::test]
    async fn a_promise_becomes_what_was_written_and_one_of_unknown_size_grows() {
        let (_dir, room, _) = room().await;
        let mut known = room.promise(10_000).await.unwrap();
        known.write(4_000).await.unwrap();
        assert_eq!((room.state().promised, known.left), (6_000, 6_000));
        let mut unknown = room.promise(UNKNOWN_SIZE_BYTES).await.unwrap();
        unknown.write(UNKNOWN_SIZE_BYTES).await.unwrap();
        unknown.write(1).await.unwrap();
        assert_eq!(room.state().promised, 6_000 + UNKNOWN_SIZE_BYTES - 1);
        unknown.write(3 * UNKNOWN_SIZE_BYTES).await.unwrap();
        drop((known, unknown));
        assert_eq!(room.state().promised, 0);
        let written = room.state().written;
        room.look().await.unwrap();
        assert!(written >= 4_000 && room.state().written == 0, "the file system counts it now");
    }
}
