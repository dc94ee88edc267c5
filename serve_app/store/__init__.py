"""What must outlive a process: keys' quotas and usage, stored responses, quarantine, audit. Two implementations of one protocol."""
