//! Pages of stored messages for a home.

use millrace_protocol::code::Refusal;
use millrace_protocol::node::{History, ReadHistory};

use super::connection::Link;
use super::refusal;
use crate::record::message::{self, PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};

/// What users, places and the frame add to a page.
const OVERHEAD_BYTES_PER_MESSAGE: usize = 256;

/// About what the reply takes at most.
pub(super) fn reply_bytes_max(read: &ReadHistory) -> usize {
    let messages = usize::try_from(read.messages_max.min(PAGE_MESSAGES_MAX)).unwrap_or(usize::MAX);
    let bytes = usize::try_from(read.bytes_max.min(PAGE_BYTES_MAX)).unwrap_or(usize::MAX);
    bytes + messages * OVERHEAD_BYTES_PER_MESSAGE
}

impl Link {
    pub(super) async fn read_history(&self, read: ReadHistory) -> Result<History, Refusal> {
        let mut transaction = self.shared.db.begin().await.map_err(|error| refusal(&error))?;
        let page = message::page(&mut *transaction, &read).await;
        page.map_err(|error| refusal(&error))
    }
}
