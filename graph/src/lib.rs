//! Static graphs of networks and their compiler: shapes, ops, passes, and the plan, which is plain data.
#![forbid(unsafe_code)]
