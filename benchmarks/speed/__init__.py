"""How long everything takes that a user waits for, beside what they would use instead and what the machine can do."""
