"""The HTTP edge: connections, XML-RPC, JSON-RPC, disk transfers, consoles. Everything that arrives is hostile."""
