//! The task between the machine's route changes and the Envoys: translates, publishes, and tells the machine what was
//! applied. Translation, hashing and encoding happen here, never on the driver's thread.
