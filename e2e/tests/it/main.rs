//! What a user of the platform sees, on a real control plane.

mod apiservices;
