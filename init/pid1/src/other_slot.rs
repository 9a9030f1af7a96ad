//! Asks the boot loader to start the other root slot once, when this one does not work.
//!
//! Only a slot that holds something is asked for. Whether that one works is found out by starting it.

use init_boot::LOADER_ENTRY_ONE_SHOT;
use init_linux::Kernel;

use crate::find_slot::find_slot;
use crate::{mount_table, stage_one};

/// Chooses the other slot and says, for people, what starts next.
pub(crate) fn choose(kernel: &dyn Kernel) -> String {
    match try_choose(kernel) {
        Ok(entry) => format!("The next start is from {entry}."),
        Err(why) => format!("The next start is from this root again, for the other one cannot be chosen: {why}."),
    }
}

fn try_choose(kernel: &dyn Kernel) -> Result<&'static str, String> {
    let (root, _) = stage_one::read_command_line(kernel)?;
    let mut notes = Vec::new();
    let found = find_slot(kernel, &root, &mut notes).ok_or_else(|| notes.join("; "))?;
    let other = found.other.filter(|other| !other.is_empty()).ok_or("the other slot is empty")?;
    mount_table::mount_variables(kernel);
    kernel.write_efi_variable(LOADER_ENTRY_ONE_SHOT, &other.slot.one_shot_variable()).map_err(|error| error.story())?;
    Ok(other.slot.entry_name())
}
