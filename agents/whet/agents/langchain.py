"""What the runtime needs of LangChain: the conversions of ``whet.core.models.langchain``, and the mark of its own calls."""

from whet.core.models.langchain import completion_of, messages_of, to_langchain, tools_of

__all__ = ["BOUNDED", "completion_of", "messages_of", "to_langchain", "tools_of"]

BOUNDED = "whet"
"""The provider that ``AgentChatModel`` tells LangChain; its calls are bounded and recorded by the run itself."""
