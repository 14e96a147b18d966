//! Origins and edges in one process, each with a hub of its own, and real connections between them.

mod hostile;
mod playlists;
mod pulls;
mod stage;
