//! After a checkpoint: the index lets go of rows that the file holds as well.
//!
//! So cold mailboxes cost no heap, and the file of the checkpoint before can be unmapped.
//! Only blocks that nobody has changed since are swapped, and only after what is in the file
//! has been verified.

use super::write::WrittenBlock;
use super::{file_name, verified_rows};
use crate::core::Core;
use crate::device::Device;
use crate::index::{BlockData, Index, RowFile, Rows};
use crate::types::Lsn;
use std::io;
use std::rc::Rc;

/// Swapped between two yields.
const BLOCKS_AT_ONCE: usize = 64;

/// The snapshot must be gone by now, or every account would be copied.
pub(crate) async fn settle<D: Device>(
    core: &Core<D>,
    lsn: Lsn,
    blocks: Vec<WrittenBlock>,
) -> io::Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    let mapping = core.device.map(&file_name(lsn)).await?;
    let file = Rc::new(RowFile { mapping, checkpoint: Some(lsn) });
    for some in blocks.chunks(BLOCKS_AT_ONCE) {
        for block in some {
            swap(&mut core.index.borrow_mut(), &file, block);
        }
        core.device.yield_now().await;
    }
    Ok(())
}

fn swap(index: &mut Index, file: &Rc<RowFile>, written: &WrittenBlock) {
    let Ok(offset) = usize::try_from(written.offset) else { return };
    let Some(rows) = rows_of(index, written) else { return };
    let blocks = rows.blocks();
    let position = blocks.partition_point(|block| block.first < written.first);
    let is_the_same = |position: usize| {
        blocks.get(position).is_some_and(|block| Rc::ptr_eq(&block.data, &written.data))
    };
    if !is_the_same(position) || verified_rows(file.bytes(), offset).is_none() {
        return;
    }
    let Some(rows) = rows_of_mut(index, written) else { return };
    let data = BlockData::Mapped { file: Rc::clone(file), offset };
    rows.blocks_mut()[position].data = Rc::new(data);
}

fn rows_of<'i>(index: &'i Index, written: &WrittenBlock) -> Option<&'i Rows> {
    if written.is_buried {
        return Some(&index.past.graveyard(written.account, written.mailbox)?.rows);
    }
    Some(&index.account(written.account)?.mailbox(written.mailbox)?.rows)
}

fn rows_of_mut<'i>(index: &'i mut Index, written: &WrittenBlock) -> Option<&'i mut Rows> {
    if written.is_buried {
        return Some(&mut index.past.graveyard_mut(written.account, written.mailbox)?.rows);
    }
    let account = index.accounts.get_mut(&written.account).map(Rc::make_mut)?;
    Some(&mut account.mailbox_mut(written.mailbox)?.rows)
}
