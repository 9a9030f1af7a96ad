//! Who somebody is: access table, login statements, machine leaves.
