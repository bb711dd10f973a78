//! Every limit that both sides of a wire rely on, named with its unit last.

use std::time::Duration;

/// Bytes of one name in a path.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Bytes of a whole path.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Bytes of a JSON request body with many items.
pub const JSON_BODY_BYTES_MAX: usize = 4 << 20;
/// Bytes of any other JSON request body: two paths of the greatest length, each byte escaped.
pub const SMALL_JSON_BYTES_MAX: usize = 64 << 10;
/// How long a JSON request body may take, beyond the time that its bytes need at [`JSON_BODY_RATE_MIN_BYTES`].
pub const JSON_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a large JSON request body that must come in each second.
pub const JSON_BODY_RATE_MIN_BYTES: u64 = 256 << 10;
/// Entries in one page of a listing.
pub const LIST_PAGE_ROWS_MAX: usize = 1_000;
/// Replicas in one page of an inventory.
pub const INVENTORY_PAGE_ROWS_MAX: usize = 1_000;
/// Deletions in one `DELETE /file`.
pub const DELETE_BATCH_ITEMS_MAX: usize = 1_000;
/// Copies that a storage server is asked to read at once.
pub const VERIFY_BATCH_ITEMS_MAX: usize = 200;
/// Reports in one `POST /api/v1/file`.
pub const COMMIT_BATCH_ITEMS_MAX: usize = 256;
/// Questions in one `POST /api/v1/pending`.
pub const PENDING_BATCH_ITEMS_MAX: usize = 1_000;
/// Starts of a storage server that its directory remembers.
pub const BOOTS_MAX: usize = 64;
/// Placements that one `/available` hands out.
pub const PLACEMENTS_MAX: u32 = 256;
/// Copies of one object.
pub const REPLICATION_MAX: u32 = 16;
/// Bytes of a segment of the journal. One change has some thousand rows at most, of a few KiB each.
pub const JOURNAL_SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a snapshot of the metadata.
pub const JOURNAL_SNAPSHOT_BYTES_MAX: u64 = 1 << 40;
/// Segments since the newest snapshot that a storage server keeps; after them it wants a snapshot.
pub const JOURNAL_SEGMENTS_MAX: usize = 20_000;
/// Files of a server's copy of the journal that are listed in one answer.
pub const JOURNAL_PAGE_FILES_MAX: usize = 1_000;
/// Bytes of one object.
pub const OBJECT_BYTES_MAX: u64 = 1 << 44;

/// Objects up to this size live inside the storage server's index instead of a file of their own: they
/// then cost a share of a group commit instead of three fsyncs.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a small request may take as a whole.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a request may take that does much on the other side (the copy of a directory, a replication).
pub const LONG_REQUEST_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// How long the first server of an upload waits for another target to take a piece, or to answer after the last
/// one. These three are nested, so that each side hears the reason before it gives up itself.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(12);
/// How long an upload waits for the outcome of its report to the name server.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a client waits for a storage server to take a piece, or to answer after the last one.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a storage server may take no byte of a snapshot of the metadata, or check it after the last one.
pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a transfer of bytes may stand still before it counts as failed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the sender of a file may keep a storage server waiting, beyond the time that its bytes need at
/// [`UPLOAD_RATE_MIN_BYTES`].
pub const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes a second that the sender of a file must send at least.
pub const UPLOAD_RATE_MIN_BYTES: u64 = 1_024;

/// How long the head of a request may take.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a peer may take nothing of what is sent to it.
pub const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(30);
